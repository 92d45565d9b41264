-- Bots: users that belong to another user, and prove themselves by a key instead of a password.

-- A bot has neither address nor password; a person has both.
ALTER TABLE users
    ADD COLUMN is_bot boolean NOT NULL DEFAULT false,
    ALTER COLUMN email DROP NOT NULL,
    ALTER COLUMN email_key DROP NOT NULL,
    ALTER COLUMN password_hash DROP NOT NULL,
    ADD CONSTRAINT users_ways_in CHECK (
        num_nonnulls(email, email_key, password_hash) = CASE WHEN is_bot THEN 0 ELSE 3 END);

CREATE TABLE bots (
    user_id    uuid PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    owner_id   uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    scopes     text[] NOT NULL CHECK (scopes <@ ARRAY['read', 'write', 'manage']),
    key_hash   bytea,              -- SHA-256 of the API key
    public_key bytea UNIQUE CHECK (octet_length(public_key) = 32),  -- X25519
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    revoked_at timestamptz
);
CREATE INDEX bots_owner ON bots (owner_id);

-- Each way in of a bot is a sign-in of its own, without refresh tokens. It is deleted when the key or the scopes change.
ALTER TABLE sign_ins
    DROP CONSTRAINT sign_ins_client_type_check,
    ADD CONSTRAINT sign_ins_client_type_check CHECK (client_type IN ('web', 'mobile', 'api_key', 'public_key'));
CREATE UNIQUE INDEX sign_ins_bot ON sign_ins (user_id, client_type) WHERE client_type IN ('api_key', 'public_key');
