/**
 * A WAMP client of another library, driven by lines of JSON: the tests say what it does and look at what it got.
 *
 *   TIMBR_WAMP_TOKEN=<name>.<secret> node wire.mjs wampy|autobahn json|msgpack ws://…
 *
 * Each line on stdin is an order, each line on stdout what became of it, in the same order:
 *   {"call": uri, "args": […], "kwargs": {…}}   → {"result": …, "progress": […]} or {"error": uri, "args", "kwargs"}
 *   {"subscribe": topic}                        → {"result": null}
 *   {"events": topic, "count": n}               → {"result": [[args, kwargs], …]}, when n have come, and takes them
 *   {"blocks": topic, "count": n}               → the rows of n records, each batch read with one `JSON.parse`
 *   {"seen": topic}                             → {"result": how many events have come and were not taken}
 *   {"put": uri, "characters": n}               → as a call with a text of that length
 *   {"odd": uri, "args": […]}                   → what became of calls with each odd value in each position:
 *                                                 {"result": [[name of the value, position, error or null], …]};
 *                                                 with {"every": n, "first": k} of each n-th of them
 * Numbers that JSON does not have come as {"$bigint": "…"}; what is no JSON at all as {"$kind": …}.
 */

import { createInterface } from "node:readline";
import autobahn from "autobahn";
import { Wampy } from "wampy";
import { JsonSerializer } from "wampy/JsonSerializer.js";
import { MsgpackSerializer } from "wampy/MsgpackSerializer.js";
import WebSocket from "ws";

globalThis.WebSocket ??= WebSocket; // autobahn takes the browser's, which Node.js has from version 22 on

const [library, kind, url] = process.argv.slice(2);
const token = process.env.TIMBR_WAMP_TOKEN ?? "";
const dot = token.indexOf(".");
const [authid, secret] = [token.slice(0, dot), token.slice(dot + 1)];

let closed;
const lost = new Promise((resolve) => (closed = () => resolve({ error: "closed", args: [], kwargs: {} })));

/** One face for both: `call` and `subscribe` as promises of plain values. */
const clients = {
  async wampy() {
    const serializer = kind === "json" ? new JsonSerializer() : new MsgpackSerializer();
    const session = new Wampy(url, {
      ws: WebSocket, realm: "timbr", serializer, authid, authmethods: ["ticket"], onChallenge: () => secret,
      autoReconnect: false, onClose: closed,
    });
    await session.connect();
    return {
      async call(uri, args, kwargs, onProgress) {
        const options = onProgress ? { progress_callback: ({ argsList }) => onProgress(argsList?.[0]) } : {};
        try {
          return { result: (await session.call(uri, { argsList: args, argsDict: kwargs }, options)).argsList?.[0] };
        } catch (error) {
          return { error: error.errorUri ?? String(error), args: error.argsList, kwargs: error.argsDict };
        }
      },
      subscribe(topic, onEvent) {
        const handler = ({ argsList, argsDict }) => onEvent(argsList ?? [], argsDict ?? {});
        return session.subscribe(topic, handler, { match: "exact", get_retained: false });
      },
      close: () => session.disconnect(),
    };
  },
  async autobahn() {
    const { JSONSerializer, MsgpackSerializer } = autobahn.serializer;
    const connection = new autobahn.Connection({
      url, realm: "timbr", serializers: [kind === "json" ? new JSONSerializer() : new MsgpackSerializer()],
      authid, authmethods: ["ticket"], onchallenge: () => secret, max_retries: 0,
    });
    const session = await new Promise((resolve, reject) => {
      connection.onopen = resolve;
      connection.onclose = (reason, details) => {
        reject(new Error(`${reason}: ${details.reason} ${details.message}`));
        closed();
        return true; // do not reconnect
      };
      connection.open();
    });
    return {
      async call(uri, args, kwargs, onProgress) {
        const options = onProgress ? { receive_progress: true } : {};
        const calling = session.call(uri, args, kwargs, options);
        return calling.then(
          (result) => ({ result }),
          (error) => ({ error: error.error, args: error.args, kwargs: error.kwargs }),
          onProgress,
        );
      },
      subscribe: (topic, onEvent) => session.subscribe(topic, (args, kwargs) => onEvent(args ?? [], kwargs ?? {})),
      close: () => connection.isOpen && connection.close(),
    };
  },
};

const AT_ONCE = 8; // odd calls
const client = await clients[library]();
const events = new Map();
let arrived = () => {};

function plain(_key, value) {
  if (typeof value === "bigint") return { $bigint: String(value) };
  if (value === undefined) return { $kind: "undefined" };
  if (ArrayBuffer.isView(value)) return { $kind: value.constructor.name };
  return value;
}

async function take(topic, enough) {
  const got = events.get(topic);
  for (;;) {
    const taken = enough(got);
    if (taken) return got.splice(0, taken);
    await new Promise((resolve) => (arrived = resolve));
  }
}

/** Say how many batches have `count` records. */
function batchesOf(count) {
  return (batches) => {
    let records = 0;
    const last = batches.findIndex(([[batch]]) => (records += batch.count) >= count);
    return last + 1;
  };
}

async function carryOut(order) {
  if (order.call) {
    const progress = [];
    const onProgress = order.progress ? (part) => progress.push(part) : null;
    return { ...(await client.call(order.call, order.args ?? [], order.kwargs ?? {}, onProgress)), progress };
  }
  if (order.put) return client.call(order.put, ["x".repeat(order.characters)], {}, null);
  if (order.subscribe) {
    events.set(order.subscribe, []);
    await client.subscribe(order.subscribe, (...event) => {
      events.get(order.subscribe).push(event);
      arrived();
    });
    return { result: null };
  }
  if (order.odd) return { result: await callOddly(order.odd, order.args, order.every ?? 1, order.first ?? 0) };
  if (order.seen) return { result: events.get(order.seen).length };
  if (order.events) return { result: await take(order.events, (got) => (got.length >= order.count ? order.count : 0)) };
  const batches = await take(order.blocks, batchesOf(order.count));
  return { result: batches.map(([[batch]]) => ({ ...batch, block: JSON.parse(batch.block) })) };
}

/**
 * What JavaScript has and JSON or MsgPack may not. Without what the libraries do not send: for a BigInt or an array
 * with holes wampy closes its connection, and a call of autobahn-js never settles, nor one with undefined in MsgPack.
 */
const oddValues = {
  NaN: NaN, infinity: -Infinity, null: null, "minus zero": -0, "2**53": 2 ** 53, "1e308": 1e308,
  "lone surrogate": "\ud800", "zero byte": "\u0000ä",
  bytes: new Uint8Array([0, 255]), date: new Date(0), map: new Map([[1, 2], [null, 3]]), set: new Set([1]),
  "undefined within": [{ a: undefined }], nested: JSON.parse("[".repeat(60) + "]".repeat(60)),
  ...(library === "wampy" ? { undefined } : {}), "no such name": "constructor", true: true, empty: {}, "odd keys": { "": 1, "\ud800": 2, __proto__: null },
};

/** Call with each odd value in each position, and one more; say what each call's error was. */
async function callOddly(uri, usual, every, first) {
  const pairs = Object.keys(oddValues).flatMap((name) => [...usual, null].map((_, position) => [name, position]));
  const chosen = pairs.filter((_, number) => number % every === first % every);
  const found = [];
  while (chosen.length > 0) {
    const some = await Promise.all(chosen.splice(0, AT_ONCE).map((pair) => callOnceOddly(uri, usual, ...pair)));
    found.push(...some);
    if (some.some(([, , error]) => error === "closed")) break;
  }
  return found;
}

async function callOnceOddly(uri, usual, name, position) {
  const args = [...usual];
  args[position] = oddValues[name];
  let timer;
  const late = new Promise((resolve) => (timer = setTimeout(() => resolve({ error: "no answer" }), 10_000)));
  // what the library itself cannot send, it may throw
  const answer = (async () => client.call(uri, args, {}, null))().catch((error) => ({ error: `thrown: ${error}` }));
  const { error } = await Promise.race([answer, late, lost]);
  clearTimeout(timer);
  return [name, position, error ?? null];
}

process.on("unhandledRejection", () => {}); // autobahn-js leaves one behind for what it cannot serialize

process.stdout.write("ready\n");
for await (const line of createInterface({ input: process.stdin })) {
  const order = JSON.parse(line);
  const done = await (order.odd ? carryOut(order) : Promise.race([carryOut(order), lost]));
  process.stdout.write(`${JSON.stringify(done, plain)}\n`);
}
await Promise.race([Promise.resolve(client.close()).catch(() => {}), lost]);
process.exit(0);
