// HTTP: a server, fetch with bodies both ways, and plain sockets, also some that fail to connect.
import http from "node:http";
import net from "node:net";
import { all, bytes, listening, sha256 } from "./shared.mjs";

export default async function (say) {
  const server = http.createServer(async (request, response) => {
    const body = await all(request);
    response.setHeader("x-hash", sha256(body));
    response.end(bytes(body.length + 160, 5));
  });
  const port = await listening(server);
  for (let i = 0; i < 25; i++) {
    const response = await fetch(`http://127.0.0.1:${port}/${i}`, { method: "POST", body: bytes(i * 997, i) });
    say(response.status, response.headers.get("x-hash"), sha256(Buffer.from(await response.arrayBuffer())));
  }
  server.closeAllConnections?.();
  await new Promise((resolve) => server.close(resolve));

  const echo = net.createServer((socket) => socket.pipe(socket));
  const echoPort = await listening(echo);
  for (let i = 0; i < 25; i++) {
    const socket = net.connect(echoPort, "127.0.0.1");
    socket.end(bytes(160 * i + 1, i));
    say("echo", sha256(await all(socket)));
  }
  await new Promise((resolve) => echo.close(resolve));

  const codes = await Promise.all(
    Array.from({ length: 50 }, () => new Promise((resolve) => net.connect("/no/such/socket").on("error", (e) => resolve(e.code)))),
  );
  say("refused", codes.length, [...new Set(codes)].join());
}
