/**
 * The page's `Api` over a WAMP connection: which topics and procedures stand behind the view.
 *
 * Live values come by topics; procedures are asked once for what was before: when the connection
 * opens, when a machine is selected, and when its revision or run changes.
 */

import { Connection } from "./connection";
import { NODE_URIS, type Discovery, type ErrorRow, type Event, type KernelInfo } from "./contract";
import type { MachineProcedures, RecordRow, Status } from "./contract";
import * as model from "./model";
import { Failure, type Api, type Link, type Message, type MachineView, type Selection, type View } from "./seam";

export interface WampOptions {
  url: string;
  realm: string;
  /** `<name>.<secret>` */
  token: string;
}

/** The list is asked for again so often: it heals what was missed, and notices a dead connection. */
const CHECK_INTERVAL_MS = 15_000;
/** A router that has just started may not know its kernels yet. */
const ASK_AGAIN_MS = 1_000;
/** Error groups are asked for no oftener than this while failures come. */
const GROUPS_EVERY_MS = 2_000;
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
  /** Ends the subscriptions of the machine selected. */
  private unwatch: (() => void)[] = [];
  private unfollow: (() => void) | null = null;
  /** Names the machine selected and its session: answers to older questions are thrown away. */
  private round = 0;
  private records_seen = 0;

  constructor(options: WampOptions) {
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
        return this.learn(await this.ask(message.verb));
      case "slot_set": {
        const code = { kind: "source", text: message.source, data: null, python: null } as const;
        await this.ask("slot_set", { slot: message.slot, function: code, name: message.name });
        return this.askSlots(this.round);
      }
      case "slot_delete":
        await this.ask("slot_delete", { slot: message.slot });
        return this.askSlots(this.round);
      case "retry_errors":
        await this.ask("retry_errors");
        return this.askGroups(this.round);
    }
  }

  // --- the connection and the list of kernels ------------------------------------------------

  private onLink(link: Link): void {
    this.change({ link });
  }

  private async onJoin(): Promise<void> {
    await this.refresh();
    if (this.view.selected) await this.askAll();
  }

  private async onCheck(): Promise<void> {
    await this.refresh();
    if (this.view.machine?.trouble) await this.askAll();
  }

  /** Ask for the list of kernels; a router that does not answer is left. */
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
        this.soon = setTimeout(() => void this.onCheck(), ASK_AGAIN_MS);
      }
    }
  }

  private setKernels(kernels: readonly KernelInfo[]): void {
    const was_listed = model.isListed(this.view);
    this.change({ kernels });
    const selection = model.selectionFor(this.view, this.wanted ?? this.view.selected);
    if (!same(selection, this.view.selected)) this.select(selection);
    else if (!was_listed && model.isListed(this.view)) void this.askAll();
  }

  // --- the machine selected ------------------------------------------------------------------

  private select(selected: Selection | null): void {
    for (const off of this.unwatch.splice(0)) off();
    this.round += 1;
    this.change({ selected, machine: selected && model.NEW_MACHINE });
    if (!selected) return this.follow();
    const kernel = `${PREFIX}.${selected.kernel_id}`;
    const machine = `${kernel}.${selected.machine}`;
    const on = (topic: string, f: (value: unknown, retained: boolean) => void): void => {
      this.unwatch.push(this.connection.subscribe(topic, ({ args, retained }) => f(args[0], retained)));
    };
    on(`${kernel}.state`, (info) => this.setKernels(model.withKernel(this.view.kernels, info as KernelInfo)));
    on(`${machine}.status`, (status, retained) => {
      const back = !retained && this.view.machine?.trouble;
      this.learn(status as Status, !retained);
      if (back) void this.askAll();
    });
    on(`${machine}.event`, (event) => this.changeMachine((m) => model.withEvents(m, [event as Event])));
    on(`${machine}.error`, (row) => {
      this.changeMachine((m) => model.withErrors(m, [row as ErrorRow]));
      this.askGroupsSoon();
    });
    this.follow();
    void this.askAll();
  }

  /** Subscribe the machine's own topic, or not. */
  private follow(): void {
    this.unfollow?.();
    this.unfollow = null;
    const selected = this.view.selected;
    if (!selected || !this.following) return;
    this.unfollow = this.connection.subscribe(this.uri(""), ({ args, kwargs }) => {
      const record = model.recordFromEvent(String(args[0]), args[1] as unknown[], ++this.records_seen);
      this.changeMachine((m) => model.withRecord(m, record, Number(kwargs["sampled"] ?? 1)));
    });
  }

  /** Ask for all that was before now. */
  private async askAll(): Promise<void> {
    if (!this.connection.joined || !this.view.selected) return;
    const round = ++this.round;
    const fold = (f: (machine: MachineView) => MachineView) => round === this.round && this.changeMachine(f);
    try {
      const status = await this.ask("status");
      if (round !== this.round) return;
      this.learn(status);
      const [recent, errors, events] = await Promise.all([
        this.ask("recent", { n: model.RECORDS_KEPT }) as Promise<RecordRow[]>,
        this.ask("errors", { n: model.ERRORS_KEPT }),
        this.ask("events", { n: model.EVENTS_KEPT }),
        this.askSlots(round),
        this.askGroups(round),
      ]);
      const records = recent.map((row) => model.recordFromRow(row, ++this.records_seen));
      fold((m) => model.withEvents(model.withErrors(model.withRecent(m, records), errors), events));
    } catch (error) {
      fold((m) => ({ ...m, trouble: (error as Failure).message }));
    }
  }

  private async askSlots(round: number): Promise<void> {
    const slots = await this.ask("slots");
    if (round === this.round) this.changeMachine((m) => ({ ...m, slots }));
  }

  private async askGroups(round: number): Promise<void> {
    const groups = await this.ask("error_groups", { n: model.GROUPS_KEPT });
    if (round === this.round) this.changeMachine((m) => ({ ...m, groups }));
  }

  /** Ask for the groups once the failures that come now have come; failures may be many. */
  private askGroupsSoon(): void {
    this.groups_soon ??= setTimeout(() => {
      this.groups_soon = null;
      // a machine that does not answer tells so by `askAll`
      if (this.connection.joined && this.view.selected) this.askGroups(this.round).catch(() => undefined);
    }, GROUPS_EVERY_MS);
  }

  /** Take in a status, and ask for what it shows to have changed. */
  private learn(status: Status, live = true): void {
    const before = this.view.machine?.status;
    this.changeMachine((m) => model.withStatus(m, status, Date.now(), live));
    if (!before || !live) return;
    if (before.run !== status.run) void this.askAll();
    else if (before.revision !== status.revision) this.askSlots(this.round).catch(() => this.askAll());
  }

  private ask<P extends keyof MachineProcedures>(
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

function same(a: Selection | null, b: Selection | null): boolean {
  return a?.kernel_id === b?.kernel_id && a?.machine === b?.machine;
}
