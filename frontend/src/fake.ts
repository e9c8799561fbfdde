/** An `Api` with invented, changing data, for development without a router. */

import type { ErrorGroup, ErrorRow, Event, KernelInfo, Policy, SlotCounts, SlotInfo, SourceOptions, Status, TrialRow } from "./contract";
import * as model from "./model";
import { Failure, type Api, type Link, type MachineView, type Message, type View } from "./seam";

const NAMES = ["clean", "rolling", "anomaly", "report"];
const SOURCES = [
  'def clean(reading):\n    """Keep what is a number."""\n    return {k: v for k, v in reading.items() if v is not None}\n',
  "def rolling(clean):\n    window.append(clean['cpu'])\n    return {\"mean\": statistics.fmean(window), \"n\": len(window)}\n",
  "def anomaly(rolling, clean):\n    return abs(clean['cpu'] - rolling['mean']) > 3 * spread(window)\n",
  'def report(anomaly, rolling, clean):\n    return "<b>not bold</b>" if anomaly else clean["cpu"] / clean["seconds"]\n',
];
const TRACEBACK =
  'Traceback (most recent call last):\n  File "<slot 3>", line 2, in report\n    return clean["cpu"] / clean["seconds"]\nZeroDivisionError: float division by zero\n';

export class FakeApi implements Api {
  private view: View;
  private readonly listeners = new Set<() => void>();
  private n = 0;
  private following = true;

  constructor(role: string, link: Link["state"]) {
    const reason = link === "lost" ? "the connection was closed" : null;
    this.view = {
      link: { state: link, reason, authid: "ada", role },
      kernels: [kernel("metrics", "busy", true), kernel("quakes", "idle", true), kernel("scratch", "offline", false)],
      selected: { kernel_id: "lab_000000000001", machine: "machine" },
      machine: { ...model.NEW_MACHINE, slots: NAMES.map(slot).concat([4, 5, 6, 7].map(unset)) },
    };
    const now = Date.now();
    for (let ms = 110_000; ms > 0 && link === "open"; ms -= 500) this.tick(now - ms);
    setInterval(() => link === "open" && this.tick(Date.now()), 250);
    if (link !== "open") this.tick(now - 9_000);
  }

  get(): View {
    return this.view;
  }

  onChange(f: () => void): () => void {
    this.listeners.add(f);
    return () => this.listeners.delete(f);
  }

  async send(message: Message): Promise<void> {
    if (message.kind === "follow") this.following = message.on;
    if (message.kind === "slot_set")
      throw new Failure("line 2: expected an indented block after function definition", "io.timbr.error.invalid_source");
    if (message.kind === "select") this.change({ selected: { ...message } });
  }

  async trial(_slot: number, source: string): Promise<readonly TrialRow[]> {
    const failed = JSON.stringify({ _exception: { exc_class: "KeyError", exc_value: "'cpu'" } });
    return Array.from({ length: 10 }, (_, i) => ({
      oid: oid(i), text: i % 4 === 3 ? failed : String(20 + (source.length % 7)), errored: i % 4 === 3, duration_s: 0.001,
      input: `{"cpu":${20 + i}}`, before: i % 2 ? String(20 + i) : "20", outcome: null, changes: [], before_s: null,
    })); // prettier-ignore
  }

  private tick(now_ms: number): void {
    this.n += 1;
    const machine = this.view.machine as MachineView;
    let next = model.withStatus(machine, status(this.n, now_ms), now_ms, true);
    if (this.following) next = model.withRecord(next, model.recordFromEvent(oid(this.n), record(this.n), this.n), 1);
    if (this.n % 31 === 0) {
      const row = { run: "8c1f", seq: this.n, oid: oid(this.n), attempt: 1, revision: 4, time: now_ms / 1000, slot: 3 };
      const error = { task: "report", exc_class: "ZeroDivisionError", exc_value: "float division by zero" };
      const what = { exc_tb: TRACEBACK, input: '{"cpu": 12.5}', resolved: false, policy: "record", tries: 1, where: "report.py:2" };
      next = model.withErrors(next, [{ ...row, ...error, ...what } as ErrorRow]);
      next = { ...next, groups: [group(next.errors)] };
      const event: Event = { kind: "slot_changed", time: now_ms / 1000, number: this.n, author: "ada", data: { change: "set 3" } };
      next = model.withEvents(next, [event]);
    }
    this.change({ machine: next });
  }

  private change(part: Partial<View>): void {
    this.view = { ...this.view, ...part };
    for (const listener of this.listeners) listener();
  }
}

function group(errors: readonly ErrorRow[]): ErrorGroup {
  const [last, first] = [errors[0] as ErrorRow, errors[errors.length - 1] as ErrorRow];
  const { slot, task, exc_class, exc_value, exc_tb, where, input } = last;
  return {
    slot, task, exc_class, exc_value, exc_tb, where, input, count: errors.length, rate_per_min: 7.7, first_oid: first.oid,
    last_oid: last.oid, first_time: first.time, last_time: last.time, policies: { record: errors.length },
    open: errors.length, resolved: false,
  }; // prettier-ignore
}

function oid(n: number): string {
  return (0x6900000000000000n + BigInt(n)).toString(16).padStart(24, "6");
}

function record(n: number): unknown[] {
  const reading = { cpu: 20 + 15 * Math.sin(n / 20), seconds: n % 31, host: "lab", cores: [12.5, 14.1, 9.8, 30.2] };
  const failed = { _exception: { exc_class: "ZeroDivisionError", exc_value: "float division by zero" } };
  return [reading, reading, { mean: 20.1, n: 60 }, n % 97 === 0, n % 31 === 0 ? failed : reading.cpu / (n % 31)];
}

const POLICY: Policy = { on_error: "record", retries: 0, backoff_s: 0, backoff_max_s: 60, default: null, timeout_s: null };

const OPTIONS: SourceOptions = {
  policy: "wait", sample_every: 10, on_exhausted: "keep", idle_timeout_s: null, restarts: 0, backoff_s: 1, backoff_max_s: 60,
}; // prettier-ignore

function status(n: number, now_ms: number): Status {
  const rate = 120 + 40 * Math.sin(n / 15) + 10 * Math.sin(n / 2);
  const [put, errored, queue_size] = [n * 60 + 2000, Math.floor(n / 31), Math.round(Math.max(0, 200 + 220 * Math.sin(n / 25)))];
  return {
    name: "machine", run: "8c1f", state: "running", reason: null, running: true,
    put, processed: put - errored - queue_size - 1, errored, dropped: 0, refused: 12,
    queue_size, queue_capacity: 1024, in_flight: 1, last_seq: put, last_oid: oid(n), current_oid: null,
    last_processed_time: now_ms / 1000, revision: 4, rate_per_s: [rate, rate, 130], uptime_s: 3000 + n / 4,
    time: now_ms / 1000, retrying: n % 40 < 3 ? 2 : 0, on_error: POLICY, handler: "BaseEventHandler",
    policies: { retries: 12, mended: 9, defaults: 3, dead_letters: 0, pauses: 0, stops: 0, timeouts: 0, abandoned: 0 },
    executor: "inline", concurrency: 1, hook_failures: 0, events_dropped: 0,
    source: { state: "reading", count: put, total: 100_000, eta_s: 600, error: null, dropped: 0, restarts: 0, options: OPTIONS },
    slots: NAMES.map((_, index) => counts(index, put, index === 3 ? errored : 0)),
  }; // prettier-ignore
}

function counts(index: number, calls: number, errors: number): SlotCounts {
  return { slot: index, calls, errors, skipped: 0, retries: 0, mended: 0, defaults: 0, timeouts: 0, p50_s: 0.000012 * (index + 1), p99_s: 0.0004 };
}

function slot(name: string, index: number): SlotInfo {
  const source = SOURCES[index] ?? null;
  return { slot: index, name, identity: false, kind: "function", policy: index === 3 ? { ...POLICY, retries: 2 } : null, function: name, source, values: 1 + (index > 1 ? index : 0), texts: 0, revision: 4, author: "ada", counts: null };
}

function unset(index: number): SlotInfo {
  return { slot: index, name: null, identity: true, kind: "identity", policy: null, function: null, source: null, values: 1, texts: 0, revision: 4, author: null, counts: null };
}

function kernel(name: string, state: KernelInfo["state"], machine: boolean): KernelInfo {
  const number = ["metrics", "quakes", "scratch"].indexOf(name) + 1;
  return {
    kernel_id: `lab_00000000000${number}`, name, host: "lab", state, wamp_session: 1, pid: 4711, managed: true, headless: false,
    language: "python", language_version: "3.11.9", protocol_version: "5.4", cwd: "/home/ada", started_at: null,
    restarts: number - 1, reason: null, time: 0,
    machines: machine ? [{ name: "machine", run: "8c1f", state: number === 1 ? "running" : "paused" }] : [],
  };
}
