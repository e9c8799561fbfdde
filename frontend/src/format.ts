/** Format numbers, times and values for people. */

import type { Policy } from "./contract";
import { stringify } from "./json";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 });

export function count(n: number): string {
  return Math.abs(n) < 1e7 ? whole.format(n) : compact.format(n);
}

/** A number of things in words: `1 call`, `2 calls`, `3 retries`. */
export function counted(n: number, one: string, many = `${one}s`): string {
  return `${count(n)} ${n === 1 ? one : many}`;
}

export function rate(per_s: number): string {
  return per_s >= 1e5 ? compact.format(per_s) : short.format(per_s);
}

/** `850 ms`, `12 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h` */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1e-3) return `${short.format(seconds * 1e6)} µs`;
  if (seconds < 1) return `${short.format(seconds * 1e3)} ms`;
  const s = Math.round(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return pair(Math.floor(s / 60), "min", s % 60, "s");
  if (s < 86_400) return pair(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return pair(Math.floor(s / 86_400), "d", Math.floor((s % 86_400) / 3600), "h");
}

function pair(big: number, big_unit: string, small: number, small_unit: string): string {
  return small ? `${big} ${big_unit} ${small} ${small_unit}` : `${big} ${big_unit}`;
}

/** The fraction that is done, 0 to 1; null if the total is unknown. */
export function share(done: number, total: number | null): number | null {
  if (total === null) return null;
  return total > 0 ? Math.min(1, done / total) : 1;
}

/** The local time of day of seconds since the epoch. */
export function timeOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString(undefined, { hour12: false });
}

export function bytes(n: number): string {
  if (n < 1000) return `${n} bytes`;
  if (n < 1e6) return `${short.format(n / 1e3)} kB`;
  return `${short.format(n / 1e6)} MB`;
}

/** A policy as text, without default values. */
export function policyText(policy: Policy): string {
  const { retries } = policy;
  const verdict = policy.on_error.replace("_", " ");
  const wait = policy.backoff_s ? ` after ${duration(policy.backoff_s)}` : "";
  const limit = policy.timeout_s ? `, ${duration(policy.timeout_s)} at most` : "";
  return `${retries > 0 ? `retry ${retries}${wait}, then ` : ""}${verdict}${limit}`;
}

/** A value on one line, at most `limit` characters. */
export function oneLine(value: unknown, limit = 120): string {
  return cut(stringify(value), limit);
}

/** A value over several lines, as JSON. */
export function pretty(value: unknown): string {
  return stringify(value, 2);
}

export function cut(text: string, limit: number): string {
  return text.length > limit ? `${text.slice(0, limit)}…` : text;
}
