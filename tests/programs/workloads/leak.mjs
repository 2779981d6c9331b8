// Leaks on request, in Bun 1.2.18: reads a number of connections from each line of stdin, lets that
// many fail, collects garbage, and answers `FAILED MILLISECONDS CPU_MILLISECONDS`, without the
// garbage. Ends with its stdin.
import net from "node:net";
import readline from "node:readline";

const AT_ONCE = 100;

function some(count) {
  return new Promise((done) => {
    let open = count;
    for (let i = 0; i < count; i++) {
      net.connect("/no/such/socket").on("error", () => {
        if (--open === 0) done();
      });
    }
  });
}

for await (const line of readline.createInterface({ input: process.stdin })) {
  const wanted = Number(line);
  const began = performance.now();
  const before = process.cpuUsage();
  let failed = 0;
  while (failed < wanted) {
    const count = Math.min(AT_ONCE, wanted - failed);
    await some(count);
    failed += count;
  }
  const took = performance.now() - began;
  const { user, system } = process.cpuUsage(before);
  globalThis.Bun?.gc(true);
  console.log(`${failed} ${took.toFixed(3)} ${((user + system) / 1e3).toFixed(3)}`);
}
