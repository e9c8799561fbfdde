/**
 * The seam between what is shown and where it comes from.
 *
 * `mount(element, api)` needs only an `Api`: the page gives one over a WAMP connection (`wamp.ts`),
 * a notebook's widget gives one over its model, `fake.ts` gives made-up data. A `View` is replaced
 * whole at each change, never edited, so that parts may compare by identity.
 */

import type { ErrorGroup, ErrorRow, Event, KernelInfo, SlotInfo, Status } from "./contract";

export interface Api {
  /** What to show now. The same object until something changed. */
  get(): View;
  /** Call `f` after each change; the function returned ends that. */
  onChange(f: () => void): () => void;
  /** Ask for something. Settles when it is done; rejects with a `Failure` that tells people why not. */
  send(message: Message): Promise<void>;
}

export type Message =
  | { kind: "select"; kernel_id: string; machine: string }
  | { kind: "command"; verb: Verb }
  | { kind: "slot_set"; slot: number; source: string; name: string | null }
  | { kind: "slot_delete"; slot: number }
  | { kind: "retry_errors" }
  /** Whether records should arrive; they cost the router something. */
  | { kind: "follow"; on: boolean };

export type Verb = "start" | "pause" | "resume" | "stop";

/** Why something asked for was not done. `message` is for people. */
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
  /** The machine selected; null when there is none. */
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
  /** This browser's clock, milliseconds, when `status` came; 0 when it is from a time before. */
  heard_at: number;
  slots: readonly SlotInfo[];
  /** Oldest first, at most `POINTS_KEPT_S` seconds. */
  points: readonly Point[];
  /** Newest first, at most `RECORDS_KEPT`. */
  records: readonly RecordView[];
  /** One record in so many arrives. */
  sampled: number;
  /** Newest first, at most `ERRORS_KEPT`. */
  errors: readonly ErrorRow[];
  /** Failures by kind, those seen last first, as they were when last asked for. */
  groups: readonly ErrorGroup[];
  /** Newest first, at most `EVENTS_KEPT`. */
  events: readonly Event[];
  /** Why the machine does not answer; null when it does. */
  trouble: string | null;
}

export interface Point {
  /** This browser's clock, seconds. */
  time: number;
  rate_per_s: number;
  queue_size: number;
}

export interface RecordView {
  /** Counts the records that this page has seen: a key for lists. */
  key: number;
  oid: string;
  /** `[in, f0, f1, …]`; null when it was too large to send. */
  values: readonly unknown[] | null;
  text_bytes: number | null;
  /** Known only of records asked for; the live topic does not carry them. */
  seq: number | null;
  revision: number | null;
  errored: boolean;
}
