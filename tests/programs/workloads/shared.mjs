// What several workloads need. Prints nothing.
import { createHash } from "node:crypto";
import fs from "node:fs";

export const sha256 = (data) => createHash("sha256").update(data).digest("hex").slice(0, 16);

/** Bytes that look random and are the same in every run (an LCG). */
export function bytes(length, seed = 1) {
  const made = Buffer.alloc(length);
  let state = seed >>> 0;
  for (let at = 0; at < length; at++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    made[at] = state >>> 24;
  }
  return made;
}

export const key = () => fs.readFileSync(process.env.WORKLOAD_KEY);
export const cert = () => fs.readFileSync(process.env.WORKLOAD_CERT);

/** Listens on a free port of loopback and says which. */
export const listening = (server) =>
  new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", () => resolve(server.address().port));
  });

/** All that a stream gives until it ends. */
export const all = (stream) =>
  new Promise((resolve, reject) => {
    const parts = [];
    stream.on("data", (part) => parts.push(Buffer.from(part)));
    stream.on("end", () => resolve(Buffer.concat(parts)));
    stream.on("error", reject);
  });
