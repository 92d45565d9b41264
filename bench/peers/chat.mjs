// What the small servers share: who is in which chatroom, the next seq, and frames as Parley writes them.

import { randomUUID } from "node:crypto";

const HELLO = JSON.stringify({
  event: "hello",
  data: { server: "peer", heartbeat_interval: 3600, auth_deadline: 10, max_frame_bytes: 65536, resume_window: 0 },
});

/** The last seq of each chatroom. Nothing of it is kept: a restart begins at 1 again. */
const heads = new Map();

/** Whom a credential names, and the chatrooms that it lists: `name~chatroom,chatroom`. */
export function seat(credential) {
  const [name, listed] = credential.split("~");
  return { id: randomUUID(), name, rooms: listed ? listed.split(",") : [] };
}

/** The chatrooms of a user, as they stand. */
export function chatrooms(user) {
  return user.rooms.map((id) => ({ id, seq: heads.get(id) ?? 0 }));
}

/** The two frames that open a session. */
export function opening(user) {
  const named = { id: user.id, username: user.name };
  const data = { session_id: randomUUID(), resume_token: "", user: named, chatrooms: chatrooms(user) };
  return [HELLO, JSON.stringify({ event: "ready", data })];
}

/** A message in its chatroom: the ack for its sender, and the event for everyone there. */
export function post(user, text) {
  const { event, data, id } = JSON.parse(text);
  if (event !== "send_message" || !user.rooms.includes(data.chatroom_id)) return null;
  const chatroom_id = data.chatroom_id;
  const message = written(user, data);
  const ack = { event: "ack", data: { message_id: message.id, seq: message.seq, created_at: message.created_at }, id };
  const heard = { event: "message_received", data: { message }, chatroom_id, seq: message.seq };
  return { room: chatroom_id, ack: JSON.stringify(ack), heard: JSON.stringify(heard) };
}

/** The same fields as Parley's message has, so that frames are as long as its are. */
export function written(user, data) {
  const seq = (heads.get(data.chatroom_id) ?? 0) + 1;
  heads.set(data.chatroom_id, seq);
  return {
    id: randomUUID(),
    chatroom_id: data.chatroom_id,
    seq,
    user_id: user.id,
    username: user.name,
    display_name: user.name,
    avatar_url: null,
    content: data.content,
    message_type: "text",
    reply_to: null,
    created_at: new Date().toISOString(),
    attachments: [],
    reactions: [],
    edited_at: null,
    recalled_at: null,
  };
}

/** The credential in a request's query string. */
export function credential(query) {
  return new URLSearchParams(query).get("token") ?? "";
}

/** What the harness waits for. */
export function listening(port) {
  console.log(`listening ${port}`);
}
