/** The page's decisions, without a browser: how well a machine does, its rates, what stands for errors and trials. */

import { deepEqual, equal } from "node:assert/strict";
import { test } from "node:test";
import type { KernelInfo, Metrics, SlotInfo, Status } from "../../frontend/src/contract";
import * as model from "../../frontend/src/model";
import type { MachineView, Point } from "../../frontend/src/seam";
import { signatureOf } from "../../frontend/src/signature";

const NOW_S = 1_000_000;

/** Points once a second until now, with this growth a second. */
function points(seconds: number, processed: number, errored: number, dropped = 0): Point[] {
  return Array.from({ length: seconds + 1 }, (_, i) => ({
    time: NOW_S - seconds + i,
    processed: 5000 + i * processed,
    errored: 300 + i * errored,
    dropped: i * dropped,
    queue_size: 0,
  }));
}

function machine(of: readonly Point[]): MachineView {
  return { ...model.NEW_MACHINE, points: of };
}

function health(of: readonly Point[], now_s = NOW_S): [string, string | null] {
  const { level, text } = model.health(machine(of), 1000 * now_s);
  return [level, text];
}

test("a machine whose messages all succeed is well", () => {
  deepEqual(health(points(100, 10, 0)), ["good", null]);
});

test("a machine that did nothing is well", () => {
  deepEqual(health([]), ["good", null]);
  deepEqual(health(points(0, 1, 1)), ["good", null]);
  deepEqual(health(points(100, 0, 0)), ["good", null]);
});

test("failures are bad from half of the messages on, and worth a word from one in a hundred", () => {
  deepEqual(health(points(100, 0, 10)), ["bad", "Every message fails"]);
  deepEqual(health(points(100, 5, 5)), ["bad", "Most messages fail"]);
  deepEqual(health(points(100, 9, 1)), ["warn", "Some messages fail"]);
  deepEqual(health(points(100, 999, 1)), ["good", null]);
  deepEqual(health(points(100, 0, 0, 3)), ["warn", "Every message is dropped"]);
});

test("only the last minute counts, and its failures are counted", () => {
  const before = points(200, 50, 0).slice(0, 100);
  const start = before.at(-1) as Point;
  const since = points(100, 0, 10).map((point) => ({ ...point, processed: start.processed, errored: start.errored + point.errored }));
  const found = model.health(machine([...before, ...since]), 1000 * NOW_S);
  deepEqual([found.text, found.failed, found.of, found.span_s], ["Every message fails", 600, 600, 60]);
});

test("what was heard long ago says nothing about now", () => {
  deepEqual(health(points(100, 0, 10), NOW_S + 30), ["good", null]);
});

test("the rates of processed messages and of errors are their own", () => {
  const all = points(100, 8, 2);
  equal(model.ratePerS(all, "processed"), 8);
  equal(model.ratePerS(all, "errored"), 2);
  equal(model.ratePerS(all.slice(-1), "errored"), null);
  const charted = model.ratesPerS(all, "errored");
  equal(charted.length, all.length);
  deepEqual([charted[0], charted[1], charted.at(-1)], [null, 2, 2]);
});

test("a chart has no rate across a gap, and none below zero", () => {
  const [a, b, c] = points(2, 5, 0) as [Point, Point, Point];
  const late = { ...c, time: c.time + 60 };
  const back = { ...late, time: late.time + 1, processed: late.processed - 3 };
  deepEqual(model.ratesPerS([a, b, late, back], "processed"), [null, 5, null, 0]);
});

test("points closer than a second have the rate over a second", () => {
  const close = Array.from({ length: 9 }, (_, i) => ({ ...(points(0, 0, 0)[0] as Point), time: NOW_S + i / 4, processed: 4 * Math.floor(i / 4) }));
  equal(model.ratesPerS(close, "processed").at(-1), 4);
});

const STATUS = { run: "a", processed: 900, errored: 90, dropped: 0, queue_size: 7 } as Status;
const METRICS: Metrics = {
  run: "a",
  interval_s: 1,
  time: [500, 501, 502, 503],
  processed: [600, 700, 800, 900],
  errored: [60, 70, 80, 90],
  dropped: [0, 0, 0, 0],
  queue_size: [1, 2, 3, 4],
};

test("a page that is opened late shows what the machine counted before, on this browser's clock", () => {
  const opened = model.withStatus(model.NEW_MACHINE, STATUS, 1000 * NOW_S, true);
  const { points: shown } = model.withMetrics(opened, METRICS, 1000 * NOW_S);
  deepEqual(shown.map((point) => point.time - NOW_S), [-3, -2, 0]); // the last second is this page's own
  equal(model.ratePerS(shown, "processed"), 100);
  equal(shown.at(-1)?.queue_size, 7);
});

test("what was missed while the connection was lost is filled in, in order", () => {
  const before = model.withStatus(model.NEW_MACHINE, STATUS, 1000 * (NOW_S - 10), true);
  const back = model.withStatus(before, STATUS, 1000 * NOW_S, true);
  const { points: shown } = model.withMetrics(back, METRICS, 1000 * NOW_S);
  deepEqual(shown.map((point) => point.time - NOW_S), [-10, -3, -2, 0]);
});

test("counts of another run are not mixed in", () => {
  const opened = model.withStatus(model.NEW_MACHINE, STATUS, 1000 * NOW_S, true);
  equal(model.withMetrics(opened, { ...METRICS, run: "b" }, 1000 * NOW_S), opened);
});

test("a link's kernel is shown as soon as it is there, and another one until then", () => {
  const kernel = (kernel_id: string) => ({ kernel_id, name: kernel_id, state: "idle", machines: [{ name: "machine", run: "a", state: "idle" }] }) as unknown as KernelInfo;
  const wanted = { kernel_id: "lab_b", machine: "machine" };
  const chosen = (...ids: string[]) => model.selectionFor({ ...model.NOTHING, kernels: ids.map(kernel) }, wanted)?.kernel_id;
  equal(chosen("lab_a"), "lab_a");
  equal(chosen("lab_a", "lab_b"), "lab_b");
});

test("an error is never without a text or a place", () => {
  equal(model.exceptionText("TypeError", "no len()"), "TypeError: no len()");
  equal(model.exceptionText("TypeError", " "), "TypeError: (no text)");
  equal(model.exceptionText("", ""), "Exception: (no text)");
  equal(model.placeText({ where: "a.py:3", task: "f", slot: 1 }), "at a.py:3");
  equal(model.placeText({ where: "", task: "len", slot: 1 }), "in slot 1, len");
  equal(model.placeText({ where: "", task: "f1", slot: 1 }), "in slot 1");
  equal(model.placeText({ where: "", task: "", slot: 1 }), "in slot 1");
});

test("a trial says what differs, and errors by what they say and not by their tracebacks", () => {
  const error = (text: string, tb: string) => JSON.stringify({ _exception: { exc_class: "KeyError", exc_value: text, exc_tb: tb } });
  const row = (before: string | null, text: string, errored = false) =>
    model.trialView({ oid: "1", text, errored, duration_s: 0, input: "1", before });
  equal(row("[1,2]", "[1,2]").differs, false);
  equal(row("[1,2]", "[1,3]").differs, true);
  equal(row(null, "1").differs, true);
  equal(row(error("'a'", "line 1"), error("'a'", "line 2"), true).differs, false);
  deepEqual(row("1", error("'a'", ""), true), {
    oid: "1", input: "1", before: "1", after: "KeyError: 'a'", failed: true, differs: true,
  }); // prettier-ignore
});

test("the editor of a function without a source begins with what the slot gives to it", () => {
  const slot = (part: Partial<SlotInfo>): string =>
    signatureOf({ slot: 2, name: null, kind: "function", function: "float", values: 1, texts: 0, ...part } as SlotInfo);
  equal(slot({}), "def float(f1):\n    ");
  equal(slot({ slot: 0 }), "def float(message):\n    ");
  equal(slot({ values: 3, texts: 1 }), "def float(f1, f0, message, f1_text):\n    ");
  equal(slot({ values: -1 }), "def float(*values):\n    ");
  equal(slot({ kind: "async", function: "shop.Model.predict" }), "async def predict(f1):\n    ");
  equal(slot({ function: "<lambda>", name: "clean" }), "def clean(f1):\n    ");
  equal(slot({ function: "<lambda>", name: "class" }), "def f(f1):\n    ");
});
