// `main.mjs NAME...`: runs the workloads of those names one after the other. What a workload prints
// is the same in every run: no time, no address, no port, nothing in an order that may change.
//
// WORKLOAD_KEY and WORKLOAD_CERT name the PEM files of a certificate for localhost. WORKLOAD_MAPS,
// if set, is a file that gets the mappings of this process at the end.
import fs from "node:fs";

for (const name of process.argv.slice(2)) {
  const { default: run } = await import(`./${name}.mjs`);
  await run((...words) => console.log(`${name}:`, ...words));
}
if (process.env.WORKLOAD_MAPS) {
  fs.writeFileSync(process.env.WORKLOAD_MAPS, fs.readFileSync("/proc/self/maps", "utf8"));
}
// Whatever a runtime still keeps open (pools of connections) is no reason to wait.
process.exit(0);
