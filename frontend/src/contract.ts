// Generated from timbr_wamp/contract by `python -m timbr_wamp.contract.exports`; do not edit.

/** What happens to a message when a slot raises: first the retries, then the verdict ``on_error``. */
export interface Policy {
  on_error: "record" | "default" | "drop" | "dead_letter" | "pause" | "stop";
  retries: number;
  backoff_s: number;
  backoff_max_s: number;
  default: unknown;
  timeout_s: number | null;
}

/** How often policies took effect since the machine was created. For drops see `Status.dropped`. */
export interface PolicyCounts {
  retries: number;
  mended: number;
  defaults: number;
  dead_letters: number;
  pauses: number;
  stops: number;
  timeouts: number;
  abandoned: number;
}

/** How a source is read. */
export interface SourceOptions {
  policy: "wait" | "drop_new" | "drop_old" | "sample";
  sample_every: number;
  on_exhausted: "keep" | "stop" | "restart";
  idle_timeout_s: number | null;
  restarts: number;
  backoff_s: number;
  backoff_max_s: number;
}

/** State and counters of a machine's source. */
export interface SourceStatus {
  state: "none" | "waiting" | "reading" | "restarting" | "exhausted" | "failed";
  count: number;
  total: number | null;
  eta_s: number | null;
  error: string | null;
  dropped: number;
  restarts: number;
  options: SourceOptions;
}

/** Progress of a machine with its source. */
export interface Progress {
  done: number;
  total: number | null;
  percentage: number | null;
  errored: number;
  rate_per_s: number;
  eta_s: number | null;
  state: "idle" | "running" | "paused" | "draining" | "stopped" | "failed";
  complete: boolean;
}

/** Counters and timings of a slot. Timings are sampled, one message in 32. */
export interface SlotCounts {
  slot: number;
  calls: number;
  errors: number;
  skipped: number;
  retries: number;
  mended: number;
  defaults: number;
  timeouts: number;
  p50_s: number | null;
  p99_s: number | null;
}

/** A snapshot of a machine. ``put == processed + errored + dropped + queue_size + in_flight`` always holds. */
export interface Status {
  name: string;
  run: string;
  state: "idle" | "running" | "paused" | "draining" | "stopped" | "failed";
  reason: string | null;
  running: boolean;
  put: number;
  processed: number;
  errored: number;
  dropped: number;
  refused: number;
  queue_size: number;
  queue_capacity: number;
  in_flight: number;
  last_seq: number;
  last_oid: string | null;
  current_oid: string | null;
  last_processed_time: number | null;
  revision: number;
  rate_per_s: [number, number, number];
  uptime_s: number;
  time: number;
  source: SourceStatus;
  slots: SlotCounts[];
  retrying: number;
  policies: PolicyCounts;
  on_error: Policy;
  handler: string;
  executor: string;
  concurrency: number;
  hook_failures: number;
  events_dropped: number;
}

/** One slot of the newest revision. */
export interface SlotInfo {
  slot: number;
  name: string | null;
  identity: boolean;
  kind: "identity" | "function" | "async" | "object";
  function: string | null;
  source: string | null;
  values: number;
  texts: number;
  revision: number;
  author: string | null;
  policy: Policy | null;
  counts: SlotCounts | null;
}

/** A revision of the slot table. */
export interface RevisionInfo {
  number: number;
  time: number;
  author: string | null;
  change: string;
  reason: string | null;
  functions: (string | null)[];
}

/** Metadata of a record; sent as JSON in the third frame of its message. */
export interface RecordMeta {
  run: string;
  seq: number;
  attempt: number;
  revision: number;
  received_at: number;
  finished_at: number;
  errored: boolean;
  dropped?: boolean;
  policies?: Record<string, string> | null;
  text_bytes?: number | null;
}

/** A record on the wire: ``[seq, oid, text, meta]``. */
export type RecordRow = [seq: number, oid: string, text: string | null, meta: string];

/** A record in the block of a `RecordsBatch`: ``[seq, oid, values, meta]``. */
export type BlockRow = [seq: number, oid: string, values: unknown[] | null, meta: RecordMeta];

/** Consecutive records, in one text. */
export interface RecordsBatch {
  run: string;
  first_seq: number;
  last_seq: number;
  count: number;
  layout: number[];
  block: string;
}

/** Kept records after a given number, oldest first. */
export interface RecordsPage {
  run: string;
  first_available: number;
  last_seq: number;
  batches: RecordsBatch[];
}

/** Second frame of a batch on a machine's own publishing socket, as JSON; bridges read it. */
export type BatchHead = [run: string, first_seq: number, last_seq: number, count: number, layout: number[], sampled: number, sent_bytes: number, acknowledge: boolean];

/** A failure of a slot in one attempt at a message. */
export interface ErrorRow {
  run: string;
  seq: number;
  oid: string;
  attempt: number;
  revision: number;
  time: number;
  slot: number;
  task: string;
  exc_class: string;
  exc_value: string;
  exc_tb: string;
  input: string;
  resolved: boolean;
  policy: string;
  tries: number;
  where: string;
}

/** Failures of the same slot, exception class and line. */
export interface ErrorGroup {
  slot: number;
  task: string;
  exc_class: string;
  where: string;
  count: number;
  rate_per_min: number;
  first_oid: string;
  last_oid: string;
  first_time: number;
  last_time: number;
  exc_value: string;
  input: string;
  exc_tb: string;
  policies: Record<string, number>;
  open: number;
  resolved: boolean;
}

/** A node of the machine's graph: a slot, or the message. */
export interface GraphNode {
  id: string;
  label: string;
  needs: string[];
}

/** Which slot consumes the value of which, for slots with a function; also as Mermaid text. */
export interface Graph {
  revision: number;
  nodes: GraphNode[];
  mermaid: string;
}

/** A function that is sent to a machine: as source text, as ``module:name``, or as cloudpickle. */
export interface FunctionRef {
  kind: "source" | "reference" | "cloudpickle";
  text: string | null;
  data: string | null;
  python: string | null;
}

/** Result of `call`: a record that was neither counted nor published. */
export interface CallResult {
  oid: string;
  text: string;
  revision: number;
  errored: boolean;
}

/** Result of `put_many`. */
export interface PutResult {
  oids: string[];
  refused: number;
}

/** Result of a trial for one message. The fields from ``outcome`` on are those of a comparison. */
export interface TrialRow {
  oid: string;
  text: string;
  errored: boolean;
  duration_s: number;
  input: string;
  before: string | null;
  outcome: "same" | "changed" | "new_error" | "mended" | "other_error" | "skipped" | null;
  changes: string[];
  before_s: number | null;
}

/** A machine's counters over time, as lists of one length: one sample about every ``interval_s`` seconds. */
export interface Metrics {
  run: string;
  interval_s: number;
  time: number[];
  processed: number[];
  errored: number[];
  dropped: number[];
  queue_size: number[];
}

/** A change of a machine's state. */
export interface Event {
  kind: "started" | "resumed" | "paused" | "stopped" | "failed" | "closed" | "slot_changed" | "configured" | "handler_changed" | "source_set" | "source_deleted" | "source_failed" | "restarted" | "exhausted" | "idle" | "drained" | "full" | "stalled" | "object_failed";
  time: number;
  number: number;
  author: string | null;
  data: { [key: string]: unknown };
}

/** Summary of a machine in the state of its kernel. */
export interface MachineBrief {
  name: string;
  run: string;
  state: "idle" | "running" | "paused" | "draining" | "stopped" | "failed";
}

/** A kernel on the router: payload of its retained state, and an item of the list of kernels. */
export interface KernelInfo {
  kernel_id: string;
  name: string;
  host: string;
  state: "starting" | "idle" | "busy" | "restarting" | "dead" | "offline";
  wamp_session: number | null;
  pid: number | null;
  managed: boolean;
  headless: boolean;
  language: string;
  language_version: string;
  protocol_version: string;
  cwd: string | null;
  started_at: number | null;
  restarts: number;
  reason: string | null;
  machines: MachineBrief[];
  time: number;
}

/** A kernel was added, changed or removed. */
export interface Discovery {
  kind: "came" | "changed" | "went";
  kernel: KernelInfo;
}

/** The topics of a kernel that have subscribers, exact ones and patterns, as the node component tells its bridge. */
export interface Interest {
  kernel_id: string;
  number: number;
  topics: string[];
}

/** Content of Jupyter's ``execute_reply``. */
export interface ExecuteReply {
  status: "ok" | "error" | "aborted";
  execution_count: number | null;
  ename: string | null;
  evalue: string | null;
  traceback: string[];
  user_expressions: { [key: string]: unknown };
}

/** An iopub message of the kernel, with Jupyter's ``msg_type``, ``content``, ``metadata`` and ``buffers``. */
export interface IopubMessage {
  msg_type: string;
  content: { [key: string]: unknown };
  metadata: { [key: string]: unknown };
  buffers: string[];
  parent_id: string | null;
  seq: number;
}

/** Content of Jupyter's ``complete_reply``. */
export interface CompleteReply {
  matches: string[];
  cursor_start: number;
  cursor_end: number;
  metadata: { [key: string]: unknown };
}

/** Content of Jupyter's ``inspect_reply``: a MIME bundle when the name was found. */
export interface InspectReply {
  found: boolean;
  data: { [key: string]: unknown };
}

/** Content of Jupyter's ``is_complete_reply``. */
export interface IsCompleteReply {
  status: "complete" | "incomplete" | "invalid" | "unknown";
  indent: string;
}

/** What one slot gave in an attempt. */
export interface AttemptValue {
  slot: number;
  name: string | null;
  kind: "value" | "error" | "skipped" | "carried";
  text: string | null;
  size_bytes: number;
  policy: string | null;
}

/** One attempt at a message. */
export interface Attempt {
  attempt: number;
  state: "waiting" | "in_flight" | "processed" | "errored" | "dropped";
  seq: number;
  revision: number | null;
  received_at: number;
  finished_at: number | null;
  slots: AttemptValue[];
}

/** A message, and all that became of it: each attempt with each slot's value, oldest first. */
export interface Lookup {
  run: string;
  oid: string;
  input: string | null;
  state: "waiting" | "in_flight" | "processed" | "errored" | "dropped";
  attempts: Attempt[];
}

/** How far a retry or replay of many messages is. */
export interface ReplayProgress {
  phase: "canary" | "put";
  done: number;
  total: number;
}

/** What a function or slot table on trial gave for messages, beside what the present one, or the record, has. */
export interface TrialResult {
  title: string;
  slot: number | null;
  base_revision: number;
  rows: TrialRow[];
  tried: number;
  same: number;
  changed: number;
  new_errors: number;
  mended: number;
  other_errors: number;
  skipped: number;
  before_p50_s: number | null;
  after_p50_s: number | null;
  before_total_s: number | null;
  after_total_s: number | null;
  source_diff: string;
  notes: string[];
  left_out: number;
}

/** How one slot differs between two revisions. */
export interface SlotDiff {
  slot: number;
  change: "set" | "unset" | "changed";
  before: string | null;
  after: string | null;
  source_diff: string;
  also: string[];
}

/** Two revisions of the slot table, side by side. */
export interface RevisionDiff {
  a: number;
  b: number;
  slots: SlotDiff[];
  notes: string[];
  trial: TrialResult | null;
}

export interface NodeProcedures {
  list: { args: {  }; result: KernelInfo[] };
  announce: { args: { kernel: KernelInfo }; result: Interest };
}

export interface HostProcedures {
  start: { args: { name?: string | null; startup?: string | null; cwd?: string | null }; result: KernelInfo };
  list: { args: {  }; result: KernelInfo[] };
  restart: { args: { kernel_id: string }; result: KernelInfo };
  stop: { args: { kernel_id: string }; result: null };
}

export interface KernelProcedures {
  info: { args: {  }; result: KernelInfo };
  ping: { args: {  }; result: number };
  interrupt: { args: {  }; result: null };
  restart: { args: {  }; result: KernelInfo };
  execute: { args: { code: string; silent?: boolean; store_history?: boolean; timeout_s?: number | null }; result: ExecuteReply };
  execute_interactive: { args: { code: string; silent?: boolean; store_history?: boolean; timeout_s?: number | null }; result: ExecuteReply };
  complete: { args: { code: string; cursor_pos?: number | null }; result: CompleteReply };
  inspect: { args: { code: string; cursor_pos?: number | null; detail_level?: number }; result: InspectReply };
  is_complete: { args: { code: string }; result: IsCompleteReply };
  shutdown: { args: {  }; result: null };
}

export interface MachineProcedures {
  status: { args: {  }; result: Status };
  slots: { args: {  }; result: SlotInfo[] };
  slot: { args: { slot: number | string }; result: SlotInfo };
  records: { args: { run: string; after_seq: number; limit?: number }; result: RecordsPage };
  record: { args: { run: string; seq: number }; result: RecordRow };
  recent: { args: { n?: number }; result: RecordRow[] };
  errors: { args: { n?: number }; result: ErrorRow[] };
  error_groups: { args: { n?: number }; result: ErrorGroup[] };
  lookup: { args: { oid: string }; result: Lookup };
  graph: { args: {  }; result: Graph };
  progress: { args: { interval_s?: number; timeout_s?: number }; result: Progress };
  revisions: { args: {  }; result: RevisionInfo[] };
  compare: { args: { a: number; b: number }; result: RevisionDiff };
  metrics: { args: { last_s?: number }; result: Metrics };
  events: { args: { n?: number }; result: Event[] };
  put: { args: { message: unknown; oid?: string | null }; result: string };
  put_many: { args: { messages: unknown[]; oids?: string[] | null; timeout_s?: number }; result: PutResult };
  call: { args: { message: unknown }; result: CallResult };
  start: { args: {  }; result: Status };
  stop: { args: { drain?: boolean; timeout_s?: number }; result: Status };
  pause: { args: {  }; result: Status };
  resume: { args: {  }; result: Status };
  replay: { args: { run?: string | null; seqs?: number[] | null; oids?: string[] | null; group?: string | null; timeout_s?: number }; result: string[] };
  retry_errors: { args: { oids?: string[] | null; group?: string | null; canary?: number; timeout_s?: number }; result: string[] };
  slot_set: { args: { slot: number | string; function: FunctionRef | (FunctionRef | null)[]; name?: string | null; policy?: Policy | null; reason?: string | null; if_revision?: number | null }; result: RevisionInfo };
  slot_delete: { args: { slot: number | string; reason?: string | null }; result: RevisionInfo };
  policy_set: { args: { slot: number | string | null; policy: Policy | null; reason?: string | null }; result: RevisionInfo };
  handler_set: { args: { handler: string; options?: { [key: string]: unknown } | null }; result: Status };
  configure: { args: { bufsize?: number | null; stages?: number | null; concurrency?: number | null }; result: Status };
  trial: { args: { slot: number | string; function: FunctionRef; n?: number }; result: TrialRow[] };
  trial_report: { args: { slot: number | string; function: FunctionRef; last?: number | null; oids?: string[] | null; group?: string | null; samples?: unknown[] | null; timeout_s?: number }; result: TrialResult };
  table_trial: { args: { after?: number | null; before?: number | null; last?: number | null; oids?: string[] | null; group?: string | null; seqs?: number[] | null; with_values?: { [key: string]: unknown } | null; timeout_s?: number }; result: TrialResult };
  rollback: { args: { number: number; reason?: string | null; if_revision?: number | null }; result: RevisionInfo };
  source_set: { args: { source: FunctionRef; total?: number | null; replace?: boolean; options?: SourceOptions | null }; result: Status };
  source_delete: { args: {  }; result: Status };
}

export interface NodeTopics {
  "discovery": Discovery;
  "interest": Interest;
}

export interface KernelTopics {
  "state": KernelInfo;
  "iopub": IopubMessage;
}

export interface MachineTopics {
  "": [string, unknown[]];
  "records": RecordsBatch;
  "status": Status;
  "event": Event;
  "error": ErrorRow;
}

export const NODE_URIS = {
  list: "io.timbr.kernel.list",
  announce: "io.timbr.node.announce",
  discovery: "io.timbr.kernel.discovery",
  interest: "io.timbr.node.interest",
} as const;

export const ACCESS = {
  node: { list: "read", announce: "host" },
  host: { start: "admin", list: "read", restart: "admin", stop: "admin" },
  kernel: { info: "read", ping: "read", interrupt: "operate", restart: "operate", execute: "admin", execute_interactive: "admin", complete: "admin", inspect: "admin", is_complete: "admin", shutdown: "admin" },
  machine: { status: "read", slots: "read", slot: "read", records: "read", record: "read", recent: "read", errors: "read", error_groups: "read", lookup: "read", graph: "read", progress: "read", revisions: "read", compare: "read", metrics: "read", events: "read", put: "operate", put_many: "operate", call: "operate", start: "operate", stop: "operate", pause: "operate", resume: "operate", replay: "operate", retry_errors: "operate", slot_set: "admin", slot_delete: "admin", policy_set: "admin", handler_set: "admin", configure: "admin", trial: "admin", trial_report: "admin", table_trial: "admin", rollback: "admin", source_set: "admin", source_delete: "admin" },
} as const;
