/**
 * The interface between the display and its data.
 *
 * `mount(element, api)` needs an `Api`: the page uses one over a WAMP connection (`wamp.ts`), a notebook's
 * widget one over its model, and `fake.ts` one with invented data. A `View` is immutable and replaced at
 * each change, so that components can compare by identity.
 */

import type { ErrorGroup, ErrorRow, Event, KernelInfo, SlotInfo, Status, TrialRow } from "./contract";

export interface Api {
  /** The current view. The same object until something changes. */
  get(): View;
  /** Call `f` after each change; the returned function ends it. */
  onChange(f: () => void): () => void;
  /** Carry out a command. Resolves when it is done; rejects with a `Failure` whose message is for people. */
  send(message: Message): Promise<void>;
  /** Run a source text on the newest records as if it were in a slot; nothing changes. Rejects as `send` does. */
  trial(slot: number, source: string): Promise<readonly TrialRow[]>;
}

export type Message =
  | { kind: "select"; kernel_id: string; machine: string }
  | { kind: "command"; verb: Verb }
  | { kind: "slot_set"; slot: number; source: string; name: string | null }
  | { kind: "slot_delete"; slot: number }
  | { kind: "retry_errors" }
  /** Whether to receive records, which cause load on the router. */
  | { kind: "follow"; on: boolean };

export type Verb = "start" | "pause" | "resume" | "stop";

/** The reason why a command failed. `message` is for people. */
export class Failure extends Error {
  constructor(
    message: string,
    readonly uri: string,
  ) {
    super(message);
    this.name = "Failure";
  }
}

export interface View {
  link: Link;
  /** Sorted by name. */
  kernels: readonly KernelInfo[];
  selected: Selection | null;
  /** The selected machine; null if there is none. */
  machine: MachineView | null;
}

export interface Selection {
  kernel_id: string;
  machine: string;
}

export interface Link {
  state: "connecting" | "open" | "lost" | "rejected";
  /** Why it is lost or rejected. */
  reason: string | null;
  authid: string | null;
  role: string | null;
}

export interface MachineView {
  /** Null until the machine has answered. */
  status: Status | null;
  /** When `status` arrived, on this browser's clock in milliseconds; 0 for a retained status. */
  heard_at: number;
  slots: readonly SlotInfo[];
  /** Oldest first, at most `POINTS_KEPT_S` seconds. */
  points: readonly Point[];
  /** Newest first, at most `RECORDS_KEPT`. */
  records: readonly RecordView[];
  /** One record in this many arrives. */
  sampled: number;
  /** Newest first, at most `ERRORS_KEPT`. */
  errors: readonly ErrorRow[];
  /** Error groups, most recent first, when they were last fetched. */
  groups: readonly ErrorGroup[];
  /** Newest first, at most `EVENTS_KEPT`. */
  events: readonly Event[];
  /** Why the machine does not answer; null if it does. */
  trouble: string | null;
}

/** The machine's counters at one time. */
export interface Point {
  /** This browser's clock, seconds. */
  time: number;
  processed: number;
  errored: number;
  dropped: number;
  queue_size: number;
}

export interface RecordView {
  /** Number of the record on this page, as the key of its list item. */
  key: number;
  oid: string;
  /** `[in, f0, f1, …]`; null when it was too large to send. */
  values: readonly unknown[] | null;
  text_bytes: number | null;
  /** Null for records from the live topic, which does not contain them. */
  seq: number | null;
  revision: number | null;
  errored: boolean;
}
