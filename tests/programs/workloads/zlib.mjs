// Compression both ways, in one go and as a stream.
import zlib from "node:zlib";
import { all, bytes, sha256 } from "./shared.mjs";

export default async function (say) {
  const text = Buffer.from(Array.from({ length: 3000 }, (_, i) => `line ${i} of ${i * i % 97}\n`).join(""));
  for (const [name, data] of [["text", text], ["noise", bytes(60_000, 8)], ["empty", Buffer.alloc(0)]]) {
    for (const [to, from] of [["gzipSync", "gunzipSync"], ["deflateRawSync", "inflateRawSync"], ["brotliCompressSync", "brotliDecompressSync"]]) {
      const options = to.startsWith("brotli") ? { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 5 } } : { level: 6 };
      const coded = zlib[to](data, options);
      say(name, to, coded.length, sha256(coded), zlib[from](coded).equals(data));
    }
  }
  const stream = zlib.createGzip();
  const coded = all(stream);
  for (let at = 0; at < text.length; at += 999) stream.write(text.subarray(at, at + 999));
  stream.end();
  say("stream", zlib.gunzipSync(await coded).equals(text));
  try {
    zlib.inflateSync(Buffer.from("no such stream"));
  } catch (error) {
    say("refused", error.code);
  }
}
