// Chatrooms on uWebSockets.js: topics, which hold back what is published within one turn of the loop.

import uws from "@trufflesuite/uws-js-unofficial";
import { credential, listening, opening, post, seat } from "./chat.mjs";

const app = uws.App();

app.ws("/*", {
  compression: uws.DISABLED,
  idleTimeout: 0,
  maxBackpressure: 64 * 1024 * 1024,
  maxPayloadLength: 64 * 1024,
  sendPingsAutomatically: false,
  upgrade(response, request, context) {
    const [key, protocol, extensions] = ["key", "protocol", "extensions"].map((name) =>
      request.getHeader(`sec-websocket-${name}`),
    );
    response.upgrade({ user: seat(credential(request.getQuery())) }, key, protocol, extensions, context);
  },
  open(socket) {
    const { user } = socket;
    for (const frame of opening(user)) socket.send(frame);
    user.rooms.forEach((room) => socket.subscribe(room));
  },
  message(socket, bytes) {
    const posted = post(socket.user, Buffer.from(bytes).toString());
    if (posted === null) return socket.end(1008);
    socket.send(posted.ack);
    app.publish(posted.room, posted.heard);
  },
});

app.listen("127.0.0.1", 0, (socket) => listening(uws.us_socket_local_port(socket)));
