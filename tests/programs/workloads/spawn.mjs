// Children by fork, vfork or posix_spawn, whatever the runtime takes: with input and output, with an
// environment, a failed one, a killed one, one that is not there, many at once.
import { execFile, spawn, spawnSync } from "node:child_process";
import { all, bytes, sha256 } from "./shared.mjs";

export default async function (say) {
  say(spawnSync("/bin/echo", ["one", "two"]).stdout.toString().trim());
  say(spawnSync("/bin/sh", ["-c", "exit 7"]).status);
  say(spawnSync("/bin/sh", ["-c", "kill -TERM $$"]).signal);
  say(spawnSync("/no/such/program").error.code);
  say(spawnSync("/bin/sh", ["-c", 'echo "$A-$LD_PRELOAD-"'], { env: { A: "a" } }).stdout.toString().trim());
  const input = bytes(200_000, 11);
  const cat = spawn("/bin/cat");
  const copied = all(cat.stdout);
  cat.stdin.end(input);
  say("cat", sha256(await copied) === sha256(input));
  const many = await Promise.all(
    Array.from({ length: 12 }, (_, i) => new Promise((resolve) => execFile("/bin/sh", ["-c", `echo ${i}; exit ${i % 3}`], (error, out) => resolve(`${out.trim()}/${error?.code ?? 0}`)))),
  );
  say(many.join(" "));
}
