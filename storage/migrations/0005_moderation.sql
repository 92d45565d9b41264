-- Muted members, and users who may not come back.

-- Until when a member may not write; past or null: they may.
ALTER TABLE members ADD COLUMN muted_until timestamptz;

CREATE TABLE bans (
    chatroom_id uuid NOT NULL REFERENCES chatrooms,
    user_id     uuid NOT NULL REFERENCES users,
    banned_by   uuid NOT NULL REFERENCES users,
    reason      text,
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (chatroom_id, user_id)
);
