-- Accounts, chatrooms, messages, and the durable events that sync replays.
-- chatroom_id leads every key of a chatroom's tables, so that they can be sharded by it.

CREATE TABLE users (
    id            uuid PRIMARY KEY,
    username      text NOT NULL,
    username_key  text NOT NULL UNIQUE,  -- case-folded: Ann and ann are one name
    email         text NOT NULL,
    email_key     text NOT NULL UNIQUE,
    display_name  text NOT NULL,
    avatar_url    text,
    public_key    text,
    password_hash text NOT NULL,
    is_verified   boolean NOT NULL DEFAULT false,
    is_active     boolean NOT NULL DEFAULT true,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    last_login    timestamptz
);
CREATE INDEX users_username_prefix ON users (username_key text_pattern_ops);
CREATE INDEX users_display_name_prefix ON users (lower(display_name) text_pattern_ops);

-- One sign-in: the family of refresh tokens that descend from it. Access tokens name it as `sid`.
CREATE TABLE sign_ins (
    id          uuid PRIMARY KEY,
    user_id     uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    client_type text NOT NULL CHECK (client_type IN ('web', 'mobile')),
    created_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    revoked_why text
);
CREATE INDEX sign_ins_user ON sign_ins (user_id);

-- Only hashes of refresh tokens are kept.
CREATE TABLE refresh_tokens (
    token_hash  bytea PRIMARY KEY,
    sign_in_id  uuid NOT NULL REFERENCES sign_ins ON DELETE CASCADE,
    issued_at   timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz
);
CREATE INDEX refresh_tokens_sign_in ON refresh_tokens (sign_in_id);
CREATE INDEX refresh_tokens_expiry ON refresh_tokens (expires_at);

CREATE TABLE chatrooms (
    id                   uuid PRIMARY KEY,
    kind                 text NOT NULL CHECK (kind IN ('group', 'direct')),
    name                 text NOT NULL,
    description          text,
    owner_id             uuid REFERENCES users,
    is_private           boolean NOT NULL,
    max_members          integer NOT NULL,
    member_count         integer NOT NULL,
    encryption_enabled   boolean NOT NULL,
    auto_summary_enabled boolean NOT NULL,
    summary_threshold    integer NOT NULL,
    last_seq             bigint NOT NULL,  -- the newest event; taken under this row's lock
    message_count        bigint NOT NULL DEFAULT 0,
    created_at           timestamptz NOT NULL,
    updated_at           timestamptz NOT NULL,
    deleted_at           timestamptz
) WITH (fillfactor = 70);  -- each message updates its row: leave room to do so in place

-- A direct chatroom between the same two people exists once.
CREATE TABLE direct_chatrooms (
    lower_user_id  uuid NOT NULL REFERENCES users,
    higher_user_id uuid NOT NULL REFERENCES users,
    chatroom_id    uuid NOT NULL REFERENCES chatrooms,
    PRIMARY KEY (lower_user_id, higher_user_id),
    CHECK (lower_user_id < higher_user_id)
);

CREATE TABLE members (
    chatroom_id   uuid NOT NULL REFERENCES chatrooms,
    user_id       uuid NOT NULL REFERENCES users,
    role          text NOT NULL CHECK (role IN ('owner', 'moderator', 'member')),
    joined_at     timestamptz NOT NULL,
    last_read_seq bigint NOT NULL DEFAULT 0,
    last_read_at  timestamptz,
    PRIMARY KEY (chatroom_id, user_id)
);
CREATE INDEX members_user ON members (user_id);

-- The data key of each chatroom, wrapped by a master key. Messages name the version they were sealed under.
CREATE TABLE chatroom_keys (
    chatroom_id   uuid NOT NULL REFERENCES chatrooms,
    key_version   integer NOT NULL,
    master_key_id text NOT NULL,
    wrapped_key   bytea NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (chatroom_id, key_version)
);

-- What history reads. `seq` is the seq of the event that announced the message.
CREATE TABLE messages (
    chatroom_id  uuid NOT NULL,
    seq          bigint NOT NULL,
    id           uuid NOT NULL,
    sender_id    uuid NOT NULL,
    client_id    text,
    message_type text NOT NULL,
    reply_to     uuid,
    key_version  integer NOT NULL,
    nonce        bytea NOT NULL,
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    edited_at    timestamptz,
    PRIMARY KEY (chatroom_id, seq),
    UNIQUE (chatroom_id, id),
    UNIQUE (chatroom_id, sender_id, client_id)  -- a retry finds the first message; null is never equal
);

-- What sync replays. `adds` and `removes` name the users who begin or cease to hear the chatroom with this event.
CREATE TABLE events (
    chatroom_id uuid NOT NULL,
    seq         bigint NOT NULL,
    kind        text NOT NULL,
    message_id  uuid,
    data        jsonb,
    adds        uuid[],
    removes     uuid[],
    created_at  timestamptz NOT NULL,
    PRIMARY KEY (chatroom_id, seq)
);
