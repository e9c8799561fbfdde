/**
 * The page's state, and how it changes with what arrives. Pure functions: no connection, no clock.
 */

import { ACCESS, type Discovery, type ErrorRow, type Event, type KernelInfo, type MachineProcedures } from "./contract";
import type { RecordMeta, RecordRow, Status } from "./contract";
import { parse } from "./json";
import type { MachineView, RecordView, Selection, View } from "./seam";

export const POINTS_KEPT_S = 120;
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
  const point = { time, rate_per_s: status.rate_per_s[0], queue_size: status.queue_size };
  return { ...before, status, heard_at: now_ms, points: [...kept, point], trouble: null };
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
