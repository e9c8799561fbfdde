/**
 * Another WAMP library, in another language, as a reader of complete records: wampy, JSON over websocket.
 *
 *   TIMBR_WAMP_TOKEN=<name>.<secret> node wampy_client.mjs --url ws://… --kernel-id <id> --count <n>
 *
 * Prints two lines of JSON. First, once it is subscribed: `{"subscribed": true, "run", "last_seq"}`, as the
 * machine's status says. Then, after `count` records: `{"count", "distinct", "ordered", "revisions", "segments"}`:
 * how many records came, how many different ones, whether each followed the one before it, the revisions in
 * order of appearance, and the stretches of one revision `{revision, first_seq, last_seq, count}`.
 */

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

const require = createRequire(new URL("../../frontend/package.json", import.meta.url));
const { Wampy } = require("wampy");
const WebSocket = require("ws");

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    "kernel-id": { type: "string" },
    machine: { type: "string", default: "machine" },
    realm: { type: "string", default: "timbr" },
    count: { type: "string", default: "100" },
    "timeout-s": { type: "string", default: "60" },
  },
});
const token = process.env.TIMBR_WAMP_TOKEN ?? "";
const dot = token.indexOf(".");
const wanted = Number(options.count);
const machine = `io.timbr.kernel.${options["kernel-id"]}.${options.machine}`;

const rows = [];
let finish;
const finished = new Promise((resolve) => (finish = resolve));

function onBatch({ argsList }) {
  const { run, block } = argsList[0];
  for (const [seq, oid, , meta] of JSON.parse(block)) rows.push({ run, seq, oid, revision: meta.revision });
  if (rows.length >= wanted) finish();
}

function summary() {
  const segments = [];
  let ordered = true;
  for (const [index, row] of rows.entries()) {
    const before = rows[index - 1];
    if (before && (before.run !== row.run || before.seq + 1 !== row.seq)) ordered = false;
    const segment = segments.at(-1);
    if (segment?.revision === row.revision) Object.assign(segment, { last_seq: row.seq, count: segment.count + 1 });
    else segments.push({ revision: row.revision, first_seq: row.seq, last_seq: row.seq, count: 1 });
  }
  return {
    count: rows.length,
    distinct: new Set(rows.map((row) => `${row.run}/${row.seq}`)).size,
    ordered,
    revisions: [...new Set(segments.map((segment) => segment.revision))],
    segments,
  };
}

const session = new Wampy(options.url, {
  ws: WebSocket,
  realm: options.realm,
  authid: token.slice(0, dot),
  authmethods: ["ticket"],
  onChallenge: () => token.slice(dot + 1),
  autoReconnect: false,
});

const limit = setTimeout(() => {
  console.error(`only ${rows.length} of ${wanted} records within ${options["timeout-s"]} s`);
  console.log(JSON.stringify(summary()));
  process.exit(1);
}, 1000 * Number(options["timeout-s"]));

await session.connect();
// wampy 8.0.2 wants both options said
await session.subscribe(`${machine}.records`, onBatch, { match: "exact", get_retained: false });
const status = (await session.call(`${machine}.status`)).argsList[0];
console.log(JSON.stringify({ subscribed: true, run: status.run, last_seq: status.last_seq }));
await finished;
clearTimeout(limit);
console.log(JSON.stringify(summary()));
await session.disconnect();
