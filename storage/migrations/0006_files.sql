-- Files: who sent them, where their bytes are, in which messages they stand.

-- A row exists from the beginning of an upload. `sealed` is what the file is called and what is in it.
CREATE TABLE files (
    id            uuid PRIMARY KEY,
    uploader_id   uuid NOT NULL REFERENCES users,
    chatroom_id   uuid,                       -- the one it was uploaded for, whose quota it counts against
    purpose       text NOT NULL CHECK (purpose IN ('file', 'avatar')),
    status        text NOT NULL CHECK (status IN ('uploading', 'scanning', 'ready', 'rejected')),
    size          bigint NOT NULL,            -- bytes; of an upload, what was announced, or 0
    received      bigint NOT NULL DEFAULT 0,  -- bytes that are kept of an upload
    part_size     bigint,                     -- of an upload whose parts come in any order: bytes in each but the last
    master_key_id text NOT NULL,
    wrapped_key   bytea NOT NULL,
    nonce         bytea NOT NULL,
    sealed        bytea NOT NULL,
    created_at    timestamptz NOT NULL DEFAULT now(),
    updated_at    timestamptz NOT NULL DEFAULT now(),
    scan_until    timestamptz,                -- until then it is somebody's to scan
    expires_at    timestamptz                 -- from then on it is gone
);
CREATE INDEX files_uploader ON files (uploader_id) INCLUDE (size, received);
CREATE INDEX files_chatroom ON files (chatroom_id) INCLUDE (size, received);
CREATE INDEX files_unfinished ON files (status, updated_at) WHERE status <> 'ready';
CREATE INDEX files_expiring ON files (expires_at) WHERE expires_at IS NOT NULL;

-- Where the picture of a chatroom is.
ALTER TABLE chatrooms ADD COLUMN avatar_url text;

-- The bytes: a file, and each picture of it, in parts that have their numbers without gaps.
CREATE TABLE file_parts (
    file_id uuid NOT NULL REFERENCES files ON DELETE CASCADE,
    variant text NOT NULL CHECK (variant IN ('whole', 'small', 'large')),
    number  integer NOT NULL,
    blob_id uuid NOT NULL UNIQUE,
    size    bigint NOT NULL,  -- bytes before they were sealed
    PRIMARY KEY (file_id, variant, number)
);

-- Where a file was sent: whoever is a member there may have it.
CREATE TABLE message_files (
    chatroom_id uuid NOT NULL,
    message_id  uuid NOT NULL,
    file_id     uuid NOT NULL REFERENCES files,
    outdated    boolean NOT NULL DEFAULT FALSE,  -- the message shows the file as it was before it was scanned
    PRIMARY KEY (chatroom_id, message_id, file_id)
);
CREATE INDEX message_files_outdated ON message_files (file_id) WHERE outdated;
CREATE INDEX message_files_file ON message_files (file_id);

-- From then on a message is an empty one: what was in it has been overwritten.
ALTER TABLE messages ADD COLUMN recalled_at timestamptz;
