// Worker threads: started, given work, ended while others run; what they allocated goes with them.
import { Worker, isMainThread, parentPort, workerData } from "node:worker_threads";
import { createHash } from "node:crypto";
import { bytes, sha256 } from "./shared.mjs";

if (!isMainThread) {
  let text = "";
  for (let i = 0; i < 5; i++) {
    text += new Intl.DateTimeFormat("de-DE", { timeZone: "UTC", dateStyle: "full" }).format(new Date(i * 1e10));
    text += createHash("sha256").update(bytes(4000, i + workerData)).digest("hex");
  }
  parentPort.postMessage(sha256(text));
}

export default async function (say) {
  for (let round = 0; round < 2; round++) {
    const answers = await Promise.all(
      Array.from({ length: 3 }, (_, i) => new Promise((resolve, reject) => {
        const worker = new Worker(new URL(import.meta.url), { workerData: i + round });
        let answer;
        worker.on("message", (message) => (answer = message));
        worker.on("error", reject);
        worker.on("exit", () => resolve(answer));
      })),
    );
    say(round, answers.join(" "));
  }
}
