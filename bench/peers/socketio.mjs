// Chatrooms on Socket.IO: its rooms, over the WebSocket transport alone.

import { createServer } from "node:http";
import { Server } from "socket.io";
import { chatrooms, listening, seat, written } from "./chat.mjs";

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  pingInterval: 3_600_000,
});

// As Socket.IO's own advice on memory has it: the first request of a session is not needed any more.
io.engine.on("connection", (connection) => {
  connection.request = null;
});

io.on("connection", (socket) => {
  const user = seat(socket.handshake.auth.token ?? "");
  socket.join(user.rooms);
  socket.emit("ready", { chatrooms: chatrooms(user) });
  socket.on("send_message", (data, acknowledge) => {
    if (!user.rooms.includes(data.chatroom_id)) return socket.disconnect(true);
    const message = written(user, data);
    acknowledge({ message_id: message.id, seq: message.seq, created_at: message.created_at, client_id: data.client_id });
    io.to(message.chatroom_id).emit("message_received", { message, chatroom_id: message.chatroom_id, seq: message.seq });
  });
});

http.listen(0, "127.0.0.1", 1024, () => listening(http.address().port));
