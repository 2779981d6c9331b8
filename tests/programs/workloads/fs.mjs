// Files: many small ones, a large one, streams, links, the asynchronous calls and their threads.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { all, bytes, sha256 } from "./shared.mjs";

export default async function (say) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), "workload-"));
  try {
    for (let i = 0; i < 60; i++) fs.writeFileSync(path.join(folder, `f${String(i).padStart(3, "0")}`), bytes(i * 160, i));
    const names = fs.readdirSync(folder).sort();
    say(names.length, sha256(names.map((n) => sha256(fs.readFileSync(path.join(folder, n)))).join()));
    const read = await Promise.all(names.map((n) => fs.promises.readFile(path.join(folder, n))));
    say("promises", sha256(Buffer.concat(read)));
    const large = path.join(folder, "large");
    const to = fs.createWriteStream(large);
    for (let i = 0; i < 40; i++) to.write(bytes(16_384, i));
    await new Promise((resolve) => to.end(resolve));
    say("stream", fs.statSync(large).size, sha256(await all(fs.createReadStream(large))));
    fs.symlinkSync("large", path.join(folder, "link"));
    say("link", fs.readlinkSync(path.join(folder, "link")));
    try {
      fs.readFileSync(path.join(folder, "missing"));
    } catch (error) {
      say("missing", error.code);
    }
  } finally {
    fs.rmSync(folder, { recursive: true });
  }
}
