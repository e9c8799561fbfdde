/**
 * A WAMP connection that reconnects automatically, on top of wampy.
 *
 * Each attempt uses a new wampy object, because wampy's own reconnection gives up after a GOODBYE and
 * after a refused first attempt. Subscriptions are restored after each join.
 */

import { Wampy } from "wampy";
import { serializer } from "./json";
import { Failure, type Link } from "./seam";

export interface ConnectionOptions {
  url: string;
  realm: string;
  authid: string;
  ticket: string;
  /** Called after each change of the connection's state. */
  onLink: (link: Link) => void;
  /** Called after each join, while subscriptions are being restored. */
  onJoin: () => void;
}

export interface TopicEvent {
  args: readonly unknown[];
  kwargs: Readonly<Record<string, unknown>>;
  /** The router retained the event from an earlier publication. */
  retained: boolean;
}

type Handler = (event: TopicEvent) => void;
type EventData = Parameters<Parameters<Wampy["subscribe"]>[1]>[0];

const JOIN_TIMEOUT_MS = 10_000;
const CALL_TIMEOUT_MS = 20_000;
const FIRST_DELAY_MS = 500;
const MAX_DELAY_MS = 8_000;
/** A session that lasted this long resets the delay. */
const STABLE_MS = 10_000;
/** Wait before a failed subscription is repeated: a router that has just started may not be ready to authorize it. */
const RETRY_MS = 1_000;
const NOT_ALLOWED = "wamp.error.not_authorized";
/** Errors after which the page asks for another token instead of reconnecting. */
const REJECTED = /^wamp\.error\.(not_authorized|authentication_failed|authentication_denied|no_such_principal|no_auth_method|authentication_required)$/;

class Session extends Wampy {
  // wampy 8.0.2 looks up a subscription without its options when it unsubscribes, and so does not find it.
  override _getSubscriptionKey(topic: string): string {
    return topic;
  }
}

export class Connection {
  private session: Session | null = null;
  private closed = false;
  private delay_ms = FIRST_DELAY_MS;
  private timer: ReturnType<typeof setTimeout> | undefined;
  /** Handlers by topic. */
  private readonly handlers = new Map<string, Handler>();
  /** Subscription ids by topic in this session; null if the router refused. */
  private subscribed = new Map<string, number | null>();
  private syncing = new Set<string>();

  constructor(private readonly options: ConnectionOptions) {}

  open(): void {
    void this.attempt();
  }

  close(): void {
    this.closed = true;
    clearTimeout(this.timer);
    const session = this.session;
    this.session = null;
    session?.disconnect().catch(ignore);
  }

  get joined(): boolean {
    return this.session !== null;
  }

  /** Drop this session, for a router that no longer answers, and reconnect. */
  drop(reason: string): void {
    const session = this.session;
    if (!session) return;
    this.lost(session, reason);
    session.disconnect().catch(ignore);
  }

  async call<T>(uri: string, kwargs: Record<string, unknown> = {}): Promise<T> {
    const session = this.session;
    if (!session) throw new Failure("Not connected to the router.", "io.timbr.error.not_connected");
    try {
      const result = await within(
        session.call(uri, { argsList: [], argsDict: kwargs }),
        CALL_TIMEOUT_MS,
        () => new Failure(`No answer within ${CALL_TIMEOUT_MS / 1000} s.`, "io.timbr.error.call_timeout"),
      );
      return result.argsList?.[0] as T;
    } catch (error) {
      throw asFailure(error);
    }
  }

  /** Subscribe to a topic, also after reconnections; one handler per topic. Returns the function that unsubscribes. */
  subscribe(topic: string, handler: Handler): () => void {
    this.handlers.set(topic, handler);
    void this.syncSubscription(topic);
    return () => {
      if (this.handlers.get(topic) !== handler) return;
      this.handlers.delete(topic);
      void this.syncSubscription(topic);
    };
  }

  private async attempt(): Promise<void> {
    const { url, realm, authid, ticket, onLink, onJoin } = this.options;
    const session: Session = new Session(url, {
      realm,
      serializer,
      authid,
      authmethods: ["ticket"],
      onChallenge: () => ticket,
      autoReconnect: false,
      onClose: () => this.lost(session, "the connection was closed"),
    });
    try {
      const late = () => new Failure("the router did not answer", "io.timbr.error.not_connected");
      const welcome = (await within(session.connect(), JOIN_TIMEOUT_MS, late)) as unknown as Record<string, unknown>;
      if (this.closed) return void session.disconnect().catch(ignore);
      this.session = session;
      this.subscribed = new Map();
      this.syncing = new Set();
      const stable = setTimeout(() => (this.delay_ms = FIRST_DELAY_MS), STABLE_MS);
      session.setOptions({ onClose: () => (clearTimeout(stable), this.lost(session, "the connection was closed")) });
      onLink({ state: "open", reason: null, authid: String(welcome["authid"]), role: String(welcome["authrole"]) });
      for (const topic of this.handlers.keys()) void this.syncSubscription(topic);
      onJoin();
    } catch (error) {
      session.setOptions({ onClose: null });
      session.disconnect().catch(ignore);
      if (this.closed) return;
      const failure = asFailure(error);
      if (REJECTED.test(failure.uri)) {
        this.closed = true;
        onLink({ state: "rejected", reason: failure.message, authid, role: null });
      } else this.retry(failure.message);
    }
  }

  private lost(session: Session, reason: string): void {
    if (this.session !== session || this.closed) return;
    this.session = null;
    this.retry(reason);
  }

  private retry(reason: string): void {
    this.options.onLink({ state: "lost", reason, authid: this.options.authid, role: null });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => void this.attempt(), this.delay_ms * (0.8 + 0.4 * Math.random()));
    this.delay_ms = Math.min(this.delay_ms * 1.6, MAX_DELAY_MS);
  }

  /** Subscribe or unsubscribe at the router, so that it matches `handlers`; one call at a time per topic. */
  private async syncSubscription(topic: string): Promise<void> {
    const { session, subscribed, syncing } = this;
    if (!session || syncing.has(topic)) return;
    syncing.add(topic);
    try {
      while (session === this.session && this.handlers.has(topic) !== subscribed.has(topic)) {
        if (this.handlers.has(topic)) subscribed.set(topic, await this.subscribeNow(session, topic));
        else {
          const number = subscribed.get(topic);
          subscribed.delete(topic);
          if (number) await session.unsubscribe(number);
        }
      }
    } catch (error) {
      if (session === this.session) console.warn(`cannot unsubscribe ${topic}:`, asFailure(error).message);
    } finally {
      syncing.delete(topic);
    }
  }

  private async subscribeNow(session: Session, topic: string): Promise<number | null> {
    const onEvent = ({ argsList, argsDict, details }: EventData) => {
      const retained = details["retained"] === true;
      this.handlers.get(topic)?.({ args: argsList ?? [], kwargs: argsDict ?? {}, retained });
    };
    try {
      const result = await session.subscribe(topic, onEvent, { match: "exact", get_retained: true });
      return result.subscriptionId;
    } catch (error) {
      const failure = asFailure(error);
      if (session === this.session) console.warn(`cannot subscribe ${topic}:`, failure.message);
      if (failure.uri !== NOT_ALLOWED) setTimeout(() => this.resubscribe(session, topic), RETRY_MS);
      return null;
    }
  }

  private resubscribe(session: Session, topic: string): void {
    if (session !== this.session || this.subscribed.get(topic) !== null) return;
    this.subscribed.delete(topic);
    void this.syncSubscription(topic);
  }
}

/** Convert an error of wampy. Errors of timbr_wamp have their text in `message`. */
function asFailure(error: unknown): Failure {
  if (error instanceof Failure) return error;
  const { errorUri, argsDict, argsList, details, message } = error as {
    errorUri?: string;
    argsDict?: Record<string, unknown>;
    argsList?: unknown[];
    details?: Record<string, unknown>;
    message?: string;
  };
  const uri = errorUri ?? "io.timbr.error.not_connected";
  if (uri === "wamp.error.no_such_procedure") return new Failure("The procedure is not registered: the kernel or its machine is gone.", uri);
  const text = argsDict?.["message"] ?? argsList?.[0] ?? details?.["message"] ?? (errorUri || message) ?? uri;
  return new Failure(String(text), uri);
}

function within<T>(promise: Promise<T>, ms: number, late: () => Error): Promise<T> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(late()), ms);
    promise.then(resolve, reject).finally(() => clearTimeout(timer));
  });
}

function ignore(): void {
  // the session was already dropped
}
