// Chatrooms on Bun: its server's topics, which are written in native code.

import { credential, listening, opening, post, seat } from "./chat.mjs";

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    const user = seat(credential(request.url.split("?")[1]));
    return server.upgrade(request, { data: user }) ? undefined : new Response("", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    backpressureLimit: 64 * 1024 * 1024,
    open(socket) {
      for (const frame of opening(socket.data)) socket.send(frame);
      socket.data.rooms.forEach((room) => socket.subscribe(room));
    },
    message(socket, text) {
      const posted = post(socket.data, text);
      if (posted === null) return socket.close(1008);
      socket.send(posted.ack);
      server.publish(posted.room, posted.heard);
    },
  },
});

listening(server.port);
