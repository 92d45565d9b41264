-- What every node has to do soon, such as closing the sockets of a sign-in that ended. Redis tells it at once and may
-- lose it; each node reads it here once a second. xact_id lets a reader see where transactions may still be open.

CREATE TABLE control_log (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    xact_id    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    hint       jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX control_log_xact_id ON control_log (xact_id);
CREATE INDEX control_log_created_at ON control_log (created_at);
