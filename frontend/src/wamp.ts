/**
 * The page's `Api` over a WAMP connection: the topics and procedures that provide the view.
 *
 * Live values come from topics. Procedures are called for earlier values: when the connection opens,
 * when a machine is selected, and when its revision or run changes.
 */

import { Connection } from "./connection";
import { NODE_URIS, type Discovery, type ErrorRow, type Event, type KernelInfo } from "./contract";
import type { FunctionRef, MachineProcedures, RecordRow, Status, TrialRow } from "./contract";
import * as model from "./model";
import { Failure, type Api, type Link, type Message, type MachineView, type Selection, type View } from "./seam";

export interface WampOptions {
  url: string;
  realm: string;
  /** `<name>.<secret>` */
  token: string;
  /** The kernel to show first, when it is there; null means any. */
  kernel_id: string | null;
}

/** Interval for fetching the list of kernels again, which also detects a dead connection. */
const CHECK_INTERVAL_MS = 15_000;
/** Wait before a failed list is fetched again: a router that has just started may not know its kernels yet. */
const RETRY_MS = 1_000;
/** Shortest interval for fetching error groups while failures arrive. */
const GROUPS_EVERY_MS = 2_000;
/** Records on which a function is tried. */
const TRIAL_RECORDS = 10;
const PREFIX = "io.timbr.kernel";

export class WampApi implements Api {
  private view: View = model.NOTHING;
  private readonly listeners = new Set<() => void>();
  private readonly connection: Connection;
  private readonly check: ReturnType<typeof setInterval>;
  private soon: ReturnType<typeof setTimeout> | undefined;
  private groups_soon: ReturnType<typeof setTimeout> | null = null;
  private wanted: Selection | null = null;
  private following = true;
  /** Functions that end the subscriptions of the selected machine. */
  private subscriptions: (() => void)[] = [];
  private unsubscribe_records: (() => void) | null = null;
  /** Incremented for each selection and session, to ignore answers to earlier calls. */
  private generation = 0;
  private records_seen = 0;

  constructor(options: WampOptions) {
    if (options.kernel_id !== null) this.wanted = { kernel_id: options.kernel_id, machine: "machine" };
    const dot = options.token.indexOf(".");
    this.connection = new Connection({
      url: options.url,
      realm: options.realm,
      authid: options.token.slice(0, dot),
      ticket: options.token.slice(dot + 1),
      onLink: (link) => this.onLink(link),
      onJoin: () => void this.onJoin(),
    });
    this.connection.subscribe(NODE_URIS.discovery, ({ args }) => {
      this.setKernels(model.withDiscovery(this.view.kernels, args[0] as Discovery));
    });
    this.check = setInterval(() => void this.onCheck(), CHECK_INTERVAL_MS);
    this.connection.open();
  }

  get(): View {
    return this.view;
  }

  onChange(f: () => void): () => void {
    this.listeners.add(f);
    return () => this.listeners.delete(f);
  }

  close(): void {
    clearInterval(this.check);
    clearTimeout(this.soon);
    clearTimeout(this.groups_soon ?? undefined);
    this.connection.close();
  }

  async send(message: Message): Promise<void> {
    switch (message.kind) {
      case "select":
        this.wanted = { kernel_id: message.kernel_id, machine: message.machine };
        return this.select(this.wanted);
      case "follow":
        this.following = message.on;
        return this.follow();
      case "command":
        return this.applyStatus(await this.callMachine(message.verb));
      case "slot_set": {
        await this.callMachine("slot_set", { slot: message.slot, function: sourceRef(message.source), name: message.name });
        return this.fetchSlots(this.generation);
      }
      case "slot_delete":
        await this.callMachine("slot_delete", { slot: message.slot });
        return this.fetchSlots(this.generation);
      case "retry_errors":
        await this.callMachine("retry_errors");
        return this.fetchGroups(this.generation);
    }
  }

  trial(slot: number, source: string): Promise<readonly TrialRow[]> {
    return this.callMachine("trial", { slot, function: sourceRef(source), n: TRIAL_RECORDS });
  }

  // --- the connection and the list of kernels ------------------------------------------------

  private onLink(link: Link): void {
    this.change({ link });
  }

  private async onJoin(): Promise<void> {
    await this.refresh();
    if (this.view.selected) await this.fetchAll();
  }

  private async onCheck(): Promise<void> {
    await this.refresh();
    if (this.view.machine?.trouble) await this.fetchAll();
  }

  /** Fetch the list of kernels; drop the connection if the router does not answer. */
  private async refresh(): Promise<void> {
    if (!this.connection.joined) return;
    try {
      this.setKernels(model.sortedKernels(await this.connection.call<KernelInfo[]>(NODE_URIS.list)));
    } catch (error) {
      const failure = error as Failure;
      if (failure.uri === "io.timbr.error.not_connected") return;
      console.warn("cannot list kernels:", failure.message);
      if (failure.uri === "io.timbr.error.call_timeout") this.connection.drop("the router no longer answers");
      else if (failure.uri !== "wamp.error.not_authorized") {
        clearTimeout(this.soon);
        this.soon = setTimeout(() => void this.onCheck(), RETRY_MS);
      }
    }
  }

  private setKernels(kernels: readonly KernelInfo[]): void {
    const was_listed = model.isListed(this.view);
    this.change({ kernels });
    const selection = model.selectionFor(this.view, this.wanted ?? this.view.selected);
    if (!same(selection, this.view.selected)) this.select(selection);
    else if (!was_listed && model.isListed(this.view)) void this.fetchAll();
  }

  // --- the machine selected ------------------------------------------------------------------

  private select(selected: Selection | null): void {
    for (const off of this.subscriptions.splice(0)) off();
    this.generation += 1;
    this.change({ selected, machine: selected && model.NEW_MACHINE });
    if (!selected) return this.follow();
    const kernel = `${PREFIX}.${selected.kernel_id}`;
    const machine = `${kernel}.${selected.machine}`;
    const on = (topic: string, f: (value: unknown, retained: boolean) => void): void => {
      this.subscriptions.push(this.connection.subscribe(topic, ({ args, retained }) => f(args[0], retained)));
    };
    on(`${kernel}.state`, (info) => this.setKernels(model.withKernel(this.view.kernels, info as KernelInfo)));
    on(`${machine}.status`, (status, retained) => {
      const back = !retained && this.view.machine?.trouble;
      this.applyStatus(status as Status, !retained);
      if (back) void this.fetchAll();
    });
    on(`${machine}.event`, (event) => this.changeMachine((m) => model.withEvents(m, [event as Event])));
    on(`${machine}.error`, (row) => {
      this.changeMachine((m) => model.withErrors(m, [row as ErrorRow]));
      this.fetchGroupsSoon();
    });
    this.follow();
    void this.fetchAll();
  }

  /** Subscribe to the machine's topic of records, or unsubscribe. */
  private follow(): void {
    this.unsubscribe_records?.();
    this.unsubscribe_records = null;
    const selected = this.view.selected;
    if (!selected || !this.following) return;
    this.unsubscribe_records = this.connection.subscribe(this.uri(""), ({ args, kwargs }) => {
      const record = model.recordFromEvent(String(args[0]), args[1] as unknown[], ++this.records_seen);
      this.changeMachine((m) => model.withRecord(m, record, Number(kwargs["sampled"] ?? 1)));
    });
  }

  /** Fetch status, records, errors, events, slots and error groups. */
  private async fetchAll(): Promise<void> {
    if (!this.connection.joined || !this.view.selected) return;
    const generation = ++this.generation;
    const apply = (f: (machine: MachineView) => MachineView) => generation === this.generation && this.changeMachine(f);
    try {
      const status = await this.callMachine("status");
      if (generation !== this.generation) return;
      this.applyStatus(status);
      const [recent, errors, events] = await Promise.all([
        this.callMachine("recent", { n: model.RECORDS_KEPT }) as Promise<RecordRow[]>,
        this.callMachine("errors", { n: model.ERRORS_KEPT }),
        this.callMachine("events", { n: model.EVENTS_KEPT }),
        this.fetchSlots(generation),
        this.fetchGroups(generation),
        this.fetchMetrics(generation),
      ]);
      const records = recent.map((row) => model.recordFromRow(row, ++this.records_seen));
      apply((m) => model.withEvents(model.withErrors(model.withRecent(m, records), errors), events));
    } catch (error) {
      apply((m) => ({ ...m, trouble: (error as Failure).message }));
    }
  }

  private async fetchSlots(generation: number): Promise<void> {
    const slots = await this.callMachine("slots");
    if (generation === this.generation) this.changeMachine((m) => ({ ...m, slots }));
  }

  /** Fetch what was counted before the page listened; a machine of an earlier version does not tell. */
  private async fetchMetrics(generation: number): Promise<void> {
    const metrics = await this.callMachine("metrics", { last_s: model.POINTS_KEPT_S }).catch(() => null);
    if (metrics && generation === this.generation) this.changeMachine((m) => model.withMetrics(m, metrics, Date.now()));
  }

  private async fetchGroups(generation: number): Promise<void> {
    const groups = await this.callMachine("error_groups", { n: model.GROUPS_KEPT });
    if (generation === this.generation) this.changeMachine((m) => ({ ...m, groups }));
  }

  /** Fetch the error groups after a delay, because many failures may arrive at once. */
  private fetchGroupsSoon(): void {
    this.groups_soon ??= setTimeout(() => {
      this.groups_soon = null;
      // errors of a machine that does not answer are shown by `fetchAll`
      if (this.connection.joined && this.view.selected) this.fetchGroups(this.generation).catch(() => undefined);
    }, GROUPS_EVERY_MS);
  }

  /** Store a status, and fetch what has changed according to it. */
  private applyStatus(status: Status, live = true): void {
    const before = this.view.machine?.status;
    this.changeMachine((m) => model.withStatus(m, status, Date.now(), live));
    if (!before || !live) return;
    if (before.run !== status.run) void this.fetchAll();
    else if (before.revision !== status.revision) this.fetchSlots(this.generation).catch(() => this.fetchAll());
  }

  private callMachine<P extends keyof MachineProcedures>(
    name: P,
    args: MachineProcedures[P]["args"] | Record<string, never> = {},
  ): Promise<MachineProcedures[P]["result"]> {
    if (!this.view.selected) throw new Failure("No machine is selected.", "io.timbr.error.unknown_kernel");
    return this.connection.call(this.uri(name), args as Record<string, unknown>);
  }

  private uri(name: string): string {
    const { kernel_id, machine } = this.view.selected as Selection;
    return [PREFIX, kernel_id, machine, ...(name ? [name] : [])].join(".");
  }

  // --- changing the view ---------------------------------------------------------------------

  private changeMachine(f: (machine: MachineView) => MachineView): void {
    if (this.view.machine) this.change({ machine: f(this.view.machine) });
  }

  private change(part: Partial<View>): void {
    this.view = { ...this.view, ...part };
    for (const listener of this.listeners) listener();
  }
}

function sourceRef(text: string): FunctionRef {
  return { kind: "source", text, data: null, python: null };
}

function same(a: Selection | null, b: Selection | null): boolean {
  return a?.kernel_id === b?.kernel_id && a?.machine === b?.machine;
}
