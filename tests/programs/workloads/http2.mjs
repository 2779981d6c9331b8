// HTTP/2 over TLS: many streams on one connection, each with headers and a body.
import http2 from "node:http2";
import { all, bytes, cert, key, listening, sha256 } from "./shared.mjs";

export default async function (say) {
  const server = http2.createSecureServer({ key: key(), cert: cert() });
  server.on("stream", async (stream, headers) => {
    const body = await all(stream);
    stream.respond({ ":status": 200, "x-path": headers[":path"], "x-hash": sha256(body) });
    stream.end(bytes(body.length * 2, 3));
  });
  const port = await listening(server);
  const session = http2.connect(`https://localhost:${port}`, { ca: cert(), lookup: loopback });
  const answers = await Promise.all(
    Array.from({ length: 30 }, (_, i) => {
      const stream = session.request({ ":method": "POST", ":path": `/${i}`, "x-fill": "y".repeat(i * 7) });
      let head;
      stream.on("response", (headers) => (head = headers));
      stream.end(bytes(100 + i * 611, i));
      return all(stream).then((body) => [head[":status"], head["x-path"], head["x-hash"], sha256(body)]);
    }),
  );
  for (const answer of answers) say(...answer);
  await new Promise((resolve) => session.close(resolve));
  await new Promise((resolve) => server.close(resolve));
}

// There is no resolver in the namespace of the test.
function loopback(_name, options, done) {
  if (options?.all) done(null, [{ address: "127.0.0.1", family: 4 }]);
  else done(null, "127.0.0.1", 4);
}
