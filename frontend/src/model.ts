/**
 * The page's state, and how it changes with what arrives. Pure functions: no connection, no clock.
 */

import { ACCESS, type Discovery, type ErrorRow, type Event, type KernelInfo, type MachineProcedures } from "./contract";
import type { Metrics, RecordMeta, RecordRow, Status, TrialRow } from "./contract";
import { parse } from "./json";
import type { MachineView, Point, RecordView, Selection, View } from "./seam";

export const POINTS_KEPT_S = 300;
export const RECORDS_KEPT = 50;
export const ERRORS_KEPT = 50;
export const EVENTS_KEPT = 100;
export const GROUPS_KEPT = 20;
/** Age from which a status is out of date. A machine sends one at least every 2 s while the topic has subscribers. */
export const FRESH_MS = 6000;

export const NOTHING: View = {
  link: { state: "connecting", reason: null, authid: null, role: null },
  kernels: [],
  selected: null,
  machine: null,
};

export const NEW_MACHINE: MachineView = {
  status: null,
  heard_at: 0,
  slots: [],
  points: [],
  records: [],
  sampled: 1,
  errors: [],
  groups: [],
  events: [],
  trouble: null,
};

// --- kernels ---------------------------------------------------------------------------------

export function sortedKernels(kernels: readonly KernelInfo[]): KernelInfo[] {
  return [...kernels].sort((a, b) => a.name.localeCompare(b.name) || a.kernel_id.localeCompare(b.kernel_id));
}

export function withKernel(kernels: readonly KernelInfo[], kernel: KernelInfo): KernelInfo[] {
  return sortedKernels([...kernels.filter((known) => known.kernel_id !== kernel.kernel_id), kernel]);
}

/** A kernel that was removed stays in the list as offline, as in the router's list, because it may return. */
export function withDiscovery(kernels: readonly KernelInfo[], { kernel }: Discovery): KernelInfo[] {
  return withKernel(kernels, kernel);
}

/** Whether a kernel can answer. */
export function isThere(kernel: KernelInfo | undefined): boolean {
  return kernel?.state === "idle" || kernel?.state === "busy";
}

export function kernelOf(view: View): KernelInfo | undefined {
  return view.kernels.find((kernel) => kernel.kernel_id === view.selected?.kernel_id);
}

/** Whether the selected machine can answer. */
export function isListed(view: View): boolean {
  const kernel = kernelOf(view);
  return isThere(kernel) && (kernel?.machines ?? []).some((one) => one.name === view.selected?.machine);
}

/** The selection if it exists, else the first machine. */
export function selectionFor(view: View, wanted: Selection | null): Selection | null {
  const chosen = wanted && view.kernels.find((kernel) => kernel.kernel_id === wanted.kernel_id);
  if (chosen) {
    const there = chosen.machines.length === 0 || chosen.machines.some((one) => one.name === wanted.machine);
    return there ? wanted : { ...wanted, machine: chosen.machines[0]?.name ?? "machine" };
  }
  const candidates = [...view.kernels].sort((a, b) => Number(isThere(b)) - Number(isThere(a)));
  const kernel = candidates.find((one) => one.machines.length > 0) ?? candidates[0];
  if (!kernel) return null;
  return { kernel_id: kernel.kernel_id, machine: kernel.machines[0]?.name ?? "machine" };
}

// --- the machine -----------------------------------------------------------------------------

/** Add a status; `live` is false for a retained one. */
export function withStatus(machine: MachineView, status: Status, now_ms: number, live: boolean): MachineView {
  const before = machine.status?.run === status.run ? machine : { ...NEW_MACHINE, slots: machine.slots };
  if (!live) return { ...before, status, trouble: null };
  const time = now_ms / 1000;
  const kept = before.points.filter((point) => point.time > time - POINTS_KEPT_S && point.time < time);
  const { processed, errored, dropped, queue_size } = status;
  const point = { time, processed, errored, dropped, queue_size };
  return { ...before, status, heard_at: now_ms, points: [...kept, point], trouble: null };
}

/** Seconds around a point of this page's own in which the machine's are left out. */
const NEAR_S = 1.5;

/** Add what the machine counted while this page did not listen. */
export function withMetrics(machine: MachineView, metrics: Metrics, now_ms: number): MachineView {
  const machine_now = metrics.time.at(-1);
  if (machine.status?.run !== metrics.run || machine_now === undefined) return machine;
  const now = now_ms / 1000;
  const missed = metrics.time
    .map((time, i) => ({
      time: time - machine_now + now, // the machine's clock may be another one
      processed: metrics.processed[i] ?? 0,
      errored: metrics.errored[i] ?? 0,
      dropped: metrics.dropped[i] ?? 0,
      queue_size: metrics.queue_size[i] ?? 0,
    }))
    .filter(({ time }) => time > now - POINTS_KEPT_S && !machine.points.some((own) => Math.abs(own.time - time) < NEAR_S));
  return { ...machine, points: [...missed, ...machine.points].sort((a, b) => a.time - b.time) };
}

/** Add a record. Each message has one row, for its latest attempt. */
export function withRecord(machine: MachineView, record: RecordView, sampled: number): MachineView {
  const others = machine.records.filter((known) => known.oid !== record.oid);
  return { ...machine, records: [record, ...others].slice(0, RECORDS_KEPT), sampled };
}

/** Add fetched records after those that arrived live in the meantime. */
export function withRecent(machine: MachineView, recent: readonly RecordView[]): MachineView {
  const seen = new Set(machine.records.map((record) => record.oid));
  const older = recent.filter((record) => !seen.has(record.oid)).reverse();
  return { ...machine, records: [...machine.records, ...older].slice(0, RECORDS_KEPT) };
}

export function withErrors(machine: MachineView, rows: readonly ErrorRow[]): MachineView {
  const known = new Map(machine.errors.map((row) => [errorKey(row), row]));
  for (const row of rows) known.set(errorKey(row), row);
  const errors = [...known.values()].sort((a, b) => b.time - a.time || b.seq - a.seq || b.slot - a.slot);
  return { ...machine, errors: errors.slice(0, ERRORS_KEPT) };
}

export function errorKey(row: ErrorRow): string {
  return `${row.run}/${row.seq}/${row.attempt}/${row.slot}`;
}

export function withEvents(machine: MachineView, events: readonly Event[]): MachineView {
  const known = new Map(machine.events.map((event) => [event.number, event]));
  for (const event of events) known.set(event.number, event);
  const sorted = [...known.values()].sort((a, b) => b.number - a.number);
  return { ...machine, events: sorted.slice(0, EVENTS_KEPT) };
}

/** Convert a row of the procedure `recent`. */
export function recordFromRow([seq, oid, text, meta]: RecordRow, key: number): RecordView {
  const about = JSON.parse(meta) as RecordMeta;
  const values = text === null ? null : (parse(text) as unknown[]);
  const text_bytes = about.text_bytes ?? null;
  return { key, oid, values, text_bytes, seq, revision: about.revision, errored: about.errored };
}

/** Convert an event of the machine's topic. */
export function recordFromEvent(oid: string, values: readonly unknown[], key: number): RecordView {
  return { key, oid, values, text_bytes: null, seq: null, revision: null, errored: values.some(isException) };
}

/** The value of a slot that raised. */
export interface ExceptionValue {
  _exception: { exc_class?: string; exc_value?: string };
}

export function isException(value: unknown): value is ExceptionValue {
  return typeof value === "object" && value !== null && "_exception" in value;
}

// --- state light and permissions -----------------------------------------------------------------

export type Light = "running" | "paused" | "resting" | "failed" | "unknown";

/** The state light beside the machine's name; "unknown" without a recent status over an open connection. */
export function light(view: View, now_ms: number): Light {
  const machine = view.machine;
  const fresh = machine !== null && now_ms - machine.heard_at < FRESH_MS;
  if (view.link.state !== "open" || !machine?.status || !fresh || !isThere(kernelOf(view))) return "unknown";
  if (machine.status.state === "failed") return "failed";
  if (machine.status.running) return "running";
  return machine.status.state === "paused" ? "paused" : "resting";
}

type Procedure = keyof MachineProcedures;
const ROLES_OF_ACCESS: Record<string, readonly string[]> = {
  read: ["viewer", "operator", "admin"],
  operate: ["operator", "admin"],
  admin: ["admin"],
};

/** Whether the token's role may call a procedure. It is used to hide controls; the router enforces access. */
export function may(role: string | null, procedure: Procedure): boolean {
  return role !== null && (ROLES_OF_ACCESS[ACCESS.machine[procedure]] ?? []).includes(role);
}

// --- how well it goes ----------------------------------------------------------------------------

export type Counter = "processed" | "errored" | "dropped";
/** Span of the rates beside the counters. */
const RATE_SPAN_S = 10;
/** Shortest span of one value of a chart. */
const CHART_SPAN_S = 1;
/** Span over which failures are counted for `health`. */
const HEALTH_SPAN_S = 60;
/** Shares of failed messages that count as bad, and that are worth a word. */
const BAD_SHARE = 0.5;
const WARN_SHARE = 0.01;

/** How much a counter grew a second in the last ten seconds; null while that is not known. */
export function ratePerS(points: readonly Point[], counter: Counter): number | null {
  const newest = points.at(-1);
  const before = newest && firstSince(points, newest.time - RATE_SPAN_S);
  if (!newest || !before || before === newest) return null;
  return growthPerS(before, newest, counter);
}

/** For each point how much a counter grew a second before it; null for the first and after a gap. */
export function ratesPerS(points: readonly Point[], counter: Counter): (number | null)[] {
  let from = 0;
  return points.map((point, i) => {
    while (from + 1 < i && (points[from + 1] as Point).time <= point.time - CHART_SPAN_S) from += 1;
    const before = points[Math.min(from, i - 1)];
    if (!before || 1000 * (point.time - before.time) > FRESH_MS) return null;
    return growthPerS(before, point, counter);
  });
}

/** Points come by two ways, so one of them may be a moment late: never less than 0. */
function growthPerS(before: Point, after: Point, counter: Counter): number {
  return Math.max(0, (after[counter] - before[counter]) / (after.time - before.time));
}

export interface Health {
  level: "good" | "warn" | "bad";
  /** What is wrong, in words that stay the same while it is; null if nothing is. */
  text: string | null;
  /** Messages that failed or were dropped, of how many, in how many seconds. */
  failed: number;
  of: number;
  span_s: number;
}

/** What became of the messages of the last minute. */
export function health(machine: MachineView, now_ms: number): Health {
  const none: Health = { level: "good", text: null, failed: 0, of: 0, span_s: 0 };
  const newest = machine.points.at(-1);
  const first = newest && firstSince(machine.points, newest.time - HEALTH_SPAN_S);
  if (!newest || !first || now_ms - 1000 * newest.time > FRESH_MS) return none;
  const errored = newest.errored - first.errored;
  const dropped = newest.dropped - first.dropped;
  const ran = newest.processed - first.processed + errored;
  const span_s = newest.time - first.time;
  if (ran === 0 && dropped > 0) return { level: "warn", text: "Every message is dropped", failed: dropped, of: dropped, span_s };
  const found = { failed: errored, of: ran, span_s };
  if (errored > 0 && errored === ran) return { level: "bad", text: "Every message fails", ...found };
  if (errored >= BAD_SHARE * ran && errored > 0) return { level: "bad", text: "Most messages fail", ...found };
  if (errored >= WARN_SHARE * ran && errored > 0) return { level: "warn", text: "Some messages fail", ...found };
  return { ...none, ...found };
}

/** The first point at or after a time; points are in order. */
function firstSince(points: readonly Point[], time: number): Point | undefined {
  return points.find((point) => point.time >= time);
}

// --- errors and trials ---------------------------------------------------------------------------

/** What an exception says; some say nothing. */
export function saidText(exc_value: string): string {
  return exc_value.trim() || "(no text)";
}

export function exceptionText(exc_class: string, exc_value: string): string {
  return `${exc_class || "Exception"}: ${saidText(exc_value)}`;
}

/** Where an exception was raised: its line, else the slot's function. */
export function placeText({ where, task, slot }: { where: string; task: string; slot: number }): string {
  const named = task && task !== `f${slot}` ? `, ${task}` : "";
  return where ? `at ${where}` : `in slot ${slot}${named}`;
}

/** A trial on one record, beside what the record has for the slot. */
export interface TrialView {
  oid: string;
  input: string;
  /** Null if the record has no value for the slot. */
  before: string | null;
  after: string;
  failed: boolean;
  differs: boolean;
}

export function trialView(row: Omit<TrialRow, "outcome" | "changes" | "before_s">): TrialView {
  const before = row.before === null ? null : outcomeText(row.before);
  const after = outcomeText(row.text);
  return { oid: row.oid, input: row.input, before, after, failed: row.errored, differs: before !== after };
}

/** A value's JSON text, or of a slot that raised the exception; tracebacks are left out. */
function outcomeText(text: string): string {
  const value = parse(text);
  if (!isException(value)) return text;
  return exceptionText(value._exception.exc_class ?? "", value._exception.exc_value ?? "");
}
