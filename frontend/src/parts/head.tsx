/** The machine's name, its light, and the buttons that start and stop it. */

import type { Status } from "../contract";
import { count, duration, policyText, share } from "../format";
import { health, isThere, kernelOf, light, may, type Health, type Light } from "../model";
import type { Api, Verb, View } from "../seam";
import { Problem, useAction } from "./common";

const LIGHT_TEXT: Record<Light, string> = {
  running: "Running",
  paused: "Paused",
  resting: "Not running",
  failed: "Failed",
  unknown: "Not known",
};

export function Head({ api, view, now_ms }: { api: Api; view: View; now_ms: number }) {
  const status = view.machine?.status ?? null;
  const shown = light(view, now_ms);
  const found = view.machine && shown !== "unknown" ? health(view.machine, now_ms) : null;
  const level = found?.level ?? "good";
  return (
    <header class={`head head-${level}`} data-testid="state-card">
      <div>
        <h2>
          {view.selected?.machine} <span class="muted">in {kernelOf(view)?.name ?? view.selected?.kernel_id}</span>
        </h2>
        <p class="state" role="status" aria-live="polite">
          <span class={`light light-${shown}${shown === "running" ? ` light-${level}` : ""}`} aria-hidden="true" />
          <strong data-testid="light">{shown === "unknown" || shown === "running" ? LIGHT_TEXT[shown] : stateText(status)}</strong>
          {status?.reason && shown !== "unknown" && <span> · {status.reason}</span>}
        </p>
        {found?.text && <HealthText found={found} />}
        <p class="muted small">{aboutText(view, status, shown, now_ms)}</p>
        {status && <p class="muted small">{conductText(status)}</p>}
        {status && <Source status={status} />}
      </div>
      <Buttons api={api} view={view} known={shown !== "unknown"} />
    </header>
  );
}

/** What is wrong; the numbers, which change all the time, are not read aloud. */
function HealthText({ found }: { found: Health }) {
  return (
    <p class={`health health-${found.level}`}>
      <strong role="status" data-testid="health">
        {found.text}
      </strong>
      <span>{` · ${count(found.failed)} of ${count(found.of)} in the last ${duration(Math.max(1, Math.round(found.span_s)))}`}</span>
    </p>
  );
}

function stateText(status: Status | null): string {
  if (!status) return LIGHT_TEXT.unknown;
  // `running` comes from the state of the machine's thread, so it takes precedence over `state`
  if (status.state === "running") return "Not running, though it should";
  return status.state.charAt(0).toUpperCase() + status.state.slice(1);
}

function aboutText(view: View, status: Status | null, shown: Light, now_ms: number): string {
  const kernel = kernelOf(view);
  if (view.link.state === "open" && kernel && !isThere(kernel))
    return `The kernel is ${kernel.state}${kernel.reason ? `: ${kernel.reason}` : "."}`;
  if (view.machine?.trouble) return `No answer from the machine. ${view.machine.trouble}`;
  if (!status) return "Waiting for the machine’s first answer.";
  if (shown === "unknown") {
    const heard_at = view.machine?.heard_at ?? 0;
    return heard_at ? `Last heard of ${duration(Math.max(1, Math.round((now_ms - heard_at) / 1000)))} ago.` : "Not heard of since this page opened.";
  }
  return `Up ${duration(Math.floor(status.uptime_s))} · revision ${status.revision} · run ${status.run}`;
}

function conductText(status: Status): string {
  const { retries, mended, timeouts } = status.policies;
  const done = [
    retries > 0 && `${count(retries)} retries, ${count(mended)} of them mended it`,
    timeouts > 0 && `${count(timeouts)} timeouts`,
  ].filter(Boolean);
  const at_once = status.concurrency > 1 ? `, ${status.concurrency} at once` : "";
  const about = `On error: ${policyText(status.on_error)} · handler ${status.handler} · ${status.executor}${at_once}`;
  return [about, ...done].join(" · ");
}

function Source({ status }: { status: Status }) {
  const { state, count: read, total, eta_s, error, restarts } = status.source;
  const part = share(read, total);
  if (state === "none") return null;
  const of = total === null ? "" : ` of ${count(total)}`;
  const eta = eta_s === null ? "" : `, ${duration(eta_s)} left`;
  return (
    <>
      <p class="muted small" id="source-label">
        Source {state}: {count(read)}
        {of} read{eta}
        {restarts > 0 && `, restarted ${count(restarts)}×`}
        {error && <span class="bad"> · {error}</span>}
      </p>
      {part !== null && (
        <div
          class="bar source-bar"
          role="progressbar"
          aria-labelledby="source-label"
          aria-valuemin={0}
          aria-valuemax={100}
          aria-valuenow={Math.round(100 * part)}
        >
          <div style={{ width: `${100 * part}%` }} />
        </div>
      )}
    </>
  );
}

const VERBS: readonly { verb: Verb; label: string; from: readonly Status["state"][] }[] = [
  { verb: "start", label: "Start", from: ["idle", "stopped", "failed"] },
  { verb: "pause", label: "Pause", from: ["running", "draining"] },
  { verb: "resume", label: "Resume", from: ["paused"] },
  { verb: "stop", label: "Stop", from: ["running", "paused", "draining"] },
];

function Buttons({ api, view, known }: { api: Api; view: View; known: boolean }) {
  const { busy, failure, run } = useAction();
  const state = view.machine?.status?.state;
  const role = view.link.role;
  return (
    <div class="commands">
      <div class="row" role="group" aria-label="Machine">
        {VERBS.map(({ verb, label, from }) => {
          const allowed = may(role, verb);
          const fits = known && state !== undefined && from.includes(state);
          return (
            <button
              key={verb}
              type="button"
              class={verb === "start" || verb === "resume" ? "primary" : ""}
              disabled={busy || !allowed || !fits}
              title={allowed ? undefined : `Your role, ${role ?? "none"}, may not ${verb} a machine`}
              onClick={() => void run(() => api.send({ kind: "command", verb }))}
            >
              {label}
            </button>
          );
        })}
      </div>
      <Problem text={failure} />
    </div>
  );
}
