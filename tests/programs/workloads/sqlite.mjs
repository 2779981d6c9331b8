// The database that the runtime carries: `bun:sqlite`; Node 20 has none, and says so.
import { sha256 } from "./shared.mjs";

export default async function (say) {
  if (!process.versions.bun) {
    say("this runtime has no sqlite");
    return;
  }
  const { Database } = await import("bun:sqlite");
  const db = new Database(":memory:");
  db.run("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, size INTEGER)");
  db.run("CREATE INDEX by_size ON t (size, name)");
  const insert = db.prepare("INSERT INTO t (name, size) VALUES (?, ?)");
  db.transaction(() => {
    for (let i = 0; i < 3000; i++) insert.run(`name ${(i * 7919) % 3000}`.padEnd(i % 200, "."), (i * 31) % 500);
  })();
  for (const sql of [
    "SELECT count(*) AS n, sum(size) AS s FROM t",
    "SELECT size, count(*) AS n, max(name) AS m FROM t GROUP BY size HAVING n > 5 ORDER BY m LIMIT 20",
    "SELECT a.id, b.id AS other FROM t a JOIN t b ON a.size = b.size AND a.id < b.id ORDER BY a.name, b.name LIMIT 50",
    "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 2000) SELECT group_concat(x) AS g FROM c",
  ]) {
    const rows = JSON.stringify(db.query(sql).all());
    say(rows.length, sha256(rows));
  }
  for (let i = 0; i < 30; i++) db.query(`SELECT ${i} AS v, name FROM t WHERE id = ${i + 1}`).get();
  // Texts of every length: the database takes each from malloc, so that every size is asked for.
  let total = 0;
  const text = db.prepare("SELECT hex(zeroblob(?)) || ? AS t");
  for (let n = 0; n < 520; n += 3) total += text.get(n, "x".repeat(n % 13)).t.length;
  say("texts", total);
  db.run("DELETE FROM t WHERE size % 3 = 0");
  say(db.query("SELECT count(*) AS n FROM t").get().n);
  db.close();
}
