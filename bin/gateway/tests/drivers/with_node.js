// node-postgres: the driver most JavaScript uses. Text protocol, extended when there are parameters, named statements, cursors,
// COPY streams. Prints what it saw; the output must be the same direct and through the gateway. JUDGED: see with_psycopg.py.
"use strict";
const fs = require("node:fs");
const { pipeline } = require("node:stream/promises");
const { Client, Pool } = require("pg");
const Cursor = require("pg-cursor");
const copy = require("pg-copy-streams");

const env = process.env;
const judged = "JUDGED" in env;
const settings = {
  host: env.PGHOST, port: Number(env.PGPORT), user: env.PGUSER, password: env.PGPASSWORD, database: env.PGDATABASE,
  ssl: env.PGSSLMODE === "disable" ? false : { ca: fs.readFileSync(env.PGSSLROOTCERT, "utf8"), servername: "localhost" },
};
const show = (what, value) => console.log(`${what}: ${JSON.stringify(value)}`);
const failure = (promise) => promise.then(
  () => { throw new Error("no error"); },
  (e) => [e.name, e.code, judged ? null : e.message, e.severity]);

async function main() {
  const c = new Client(settings);
  await c.connect();
  await c.query("set timezone to 'UTC'");
  await c.query("create table t (id serial primary key, v text, j jsonb, at timestamptz)");
  show("insert", (await c.query("insert into t(v, j, at) values ($1, $2, $3) returning *",
    ["ü 'q'", { a: [1, null] }, new Date(0)])).rows);
  show("several", (await c.query("select 1 as a; select 2 as b, 3 as c")).map((r) => r.rows));
  for (let i = 0; i < 3; i++) {
    show("named", (await c.query({ name: "by-id", text: "select v from t where id = $1", values: [1 + i] })).rows);
  }
  show("binary", (await c.query({ text: "select $1::int4 as i, $2::text as t", values: [7, "x"], binary: true })).rows);
  show("arrays", (await c.query({ text: "select array[1,2], null, true, 1.5::numeric", rowMode: "array" })).rows);
  const many = await Promise.all(Array.from({ length: 200 }, (_, i) => c.query("select $1::int as i", [i])));
  show("queued", many.reduce((sum, r) => sum + r.rows[0].i, 0));
  show("syntax", await failure(c.query("selec 1")));
  show("with parameters", await failure(c.query("select 1/$1::int", [0])));
  await c.query("begin");
  show("in transaction", await failure(c.query("select * from no_such")));
  show("aborted", await failure(c.query("select 1")));
  await c.query("rollback");
  show("alive", (await c.query("select 'alive' as a")).rows);
  const cursor = c.query(new Cursor("select g from generate_series(1, $1::int) g", [250]));
  let sum = 0, reads = 0;
  for (let rows = await cursor.read(60); rows.length; rows = await cursor.read(60)) {
    reads += 1;
    sum += rows.reduce((s, r) => s + r.g, 0);
  }
  await cursor.close();
  show("cursor", [reads, sum]);
  const early = c.query(new Cursor("select g from generate_series(1, 100000) g"));
  await early.read(5);
  await early.close();
  const input = c.query(copy.from("copy t(id, v) from stdin"));
  input.write("100\tstreamed\n101\t\\N\n");
  await pipeline(async function* () { for (let i = 200; i < 3200; i++) yield `${i}\trow ${i}\n`; }, input);
  show("copied in", (await c.query("select count(*)::int as n from t")).rows);
  let bytes = 0;
  for await (const chunk of c.query(copy.to("copy (select id, v from t where id >= 100 order by id) to stdout"))) bytes += chunk.length;
  show("copied out", bytes);
  const heard = [];
  c.on("notification", (n) => heard.push([n.channel, n.payload]));
  await c.query("listen chan");
  const pool = new Pool({ ...settings, max: 4 });
  await pool.query("select pg_notify('chan', 'from the pool')");
  for (let i = 0; i < 200 && heard.length === 0; i++) await new Promise((r) => setTimeout(r, 50));
  show("notified", judged ? heard.length : heard);
  if (!judged) {
    const notices = [];
    c.on("notice", (n) => notices.push([n.severity, n.message]));
    await c.query("do $$ begin raise notice 'hello'; end $$");
    show("notices", notices);
  }
  show("big", (await c.query("select $1::text as big", ["z".repeat(2000000)])).rows[0].big.length);
  const sums = await Promise.all(Array.from({ length: 50 }, (_, i) => pool.query("select $1::int as i", [i])));
  show("pool", sums.reduce((s, r) => s + r.rows[0].i, 0));
  await pool.end();
  await c.query("drop table t");
  await c.end();
  const wrong = new Client({ ...settings, password: "wrong" });
  show("wrong password", (await failure(wrong.connect())).slice(0, 2));
}
main().catch((e) => { console.error(e); process.exit(1); });
