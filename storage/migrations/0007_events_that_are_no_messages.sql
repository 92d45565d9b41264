-- Pages of history are found by seq: what stands between messages is counted, and the messages are not.
CREATE INDEX events_no_messages ON events (chatroom_id, seq) WHERE message_id IS NULL;
