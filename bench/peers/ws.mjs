// Chatrooms on Node's `ws`: a set of sockets for each, and a frame that is built once for all of them.

import { createServer } from "node:http";
import { Sender, WebSocketServer } from "ws";
import { credential, listening, opening, post, seat } from "./chat.mjs";

const members = new Map();
const http = createServer();
const server = new WebSocketServer({ server: http, perMessageDeflate: false, skipUTF8Validation: true });

/** One frame in one buffer: `send` would make a header for every receiver, and give the kernel two pieces. */
function framed(text) {
  return Buffer.concat(Sender.frame(Buffer.from(text), { fin: true, rsv1: false, opcode: 1, mask: false, readOnly: true }));
}

server.on("connection", (socket, request) => {
  const user = seat(credential(request.url.split("?")[1]));
  for (const frame of opening(user)) socket.send(frame);
  for (const room of user.rooms) {
    if (!members.has(room)) members.set(room, new Set());
    members.get(room).add(socket);
  }
  socket.on("message", (text) => {
    const posted = post(user, text);
    if (posted === null) return socket.close(1008);
    socket.send(posted.ack);
    const frame = framed(posted.heard);
    for (const member of members.get(posted.room)) member._socket.write(frame);
  });
  socket.on("close", () => user.rooms.forEach((room) => members.get(room).delete(socket)));
});

http.listen(0, "127.0.0.1", 1024, () => listening(http.address().port));
