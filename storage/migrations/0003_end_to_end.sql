-- End-to-end encryption: public keys of devices, and chatrooms' keys wrapped for them. Nothing here opens a message.

CREATE TABLE device_keys (
    user_id    uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    device_id  text NOT NULL,
    name       text,
    public_key text NOT NULL,  -- X25519, base64
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, device_id)
);

-- The newest version of the key that the members share, 0 for none, and the oldest that may still be used.
ALTER TABLE chatrooms
    ADD COLUMN member_key_version     integer NOT NULL DEFAULT 0,
    ADD COLUMN min_member_key_version integer NOT NULL DEFAULT 1;

-- A version of the members' key, wrapped by a device of one member for a device of another. `public_key` is the one
-- it was wrapped for: where the device has another by now, or none, the chatroom has yet to be told to rotate.
CREATE TABLE wrapped_keys (
    chatroom_id       uuid NOT NULL REFERENCES chatrooms,
    user_id           uuid NOT NULL REFERENCES users,
    device_id         text NOT NULL,
    key_version       integer NOT NULL,
    public_key        text NOT NULL,
    sender_id         uuid NOT NULL,
    sender_device_id  text NOT NULL,
    sender_public_key text NOT NULL,
    wrapped_key       text NOT NULL,
    created_at        timestamptz NOT NULL,
    PRIMARY KEY (chatroom_id, user_id, device_id, key_version)
);
