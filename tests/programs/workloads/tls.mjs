// A TLS server and its clients on loopback: handshakes, small and large answers.
import tls from "node:tls";
import { all, bytes, cert, key, listening, sha256 } from "./shared.mjs";

export default async function (say) {
  const server = tls.createServer({ key: key(), cert: cert() }, (socket) => {
    socket.on("error", () => {});
    socket.once("data", (asked) => socket.end(bytes(Number(asked.toString()), 7)));
  });
  const port = await listening(server);
  for (const size of [1, 160, 1000, 20_000, 300_000, 168, 153]) {
    const socket = tls.connect({ port, host: "127.0.0.1", servername: "localhost", ca: cert() });
    const answer = all(socket);
    await new Promise((resolve, reject) => {
      socket.once("secureConnect", resolve);
      socket.once("error", reject);
    });
    socket.write(String(size));
    const got = await answer;
    say(size, socket.authorized, socket.getProtocol(), got.length, sha256(got));
  }
  const refused = tls.connect({ port, host: "127.0.0.1", servername: "localhost" });
  await new Promise((resolve) => {
    refused.once("error", (error) => resolve(say("without its CA", error.code)));
    refused.once("secureConnect", () => resolve(say("without its CA", "accepted")));
  });
  refused.destroy();
  await new Promise((resolve) => server.close(resolve));
}
