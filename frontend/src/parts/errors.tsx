/** Failures of slots: the groups, then single failures with traceback, newest first. */

import type { ErrorGroup, ErrorRow } from "../contract";
import { count, cut, rate, timeOfDay } from "../format";
import { errorKey, exceptionText, may, placeText, saidText } from "../model";
import type { Api, MachineView } from "../seam";
import { LongText, Panel, Problem, useAction } from "./common";

const GROUP_CHARACTERS = 160;

export function Errors({ api, role, machine }: { api: Api; role: string | null; machine: MachineView }) {
  const { busy, failure, run } = useAction();
  const open = machine.groups.reduce((sum, group) => sum + group.open, 0);
  const unresolved = open + machine.errors.filter((row) => !row.resolved).length;
  const aside = (
    <>
      <span class="muted">{`${machine.errors.length} latest`}</span>
      {may(role, "retry_errors") && (
        <button
          type="button"
          class="quiet"
          disabled={busy || unresolved === 0}
          title="Put each unresolved message again, as its next attempt"
          onClick={() => void run(() => api.send({ kind: "retry_errors" }))}
        >
          Try again
        </button>
      )}
    </>
  );
  return (
    <Panel title="Errors" aside={aside}>
      <Problem text={failure} />
      {machine.groups.length > 0 && (
        <ul class="rows groups" aria-label="Errors by kind">
          {machine.groups.map((group) => (
            <Group key={`${group.slot}/${group.exc_class}/${group.where}`} group={group} />
          ))}
        </ul>
      )}
      <ul class="rows" aria-label="Latest errors">
        {machine.errors.map((row) => (
          <Row key={errorKey(row)} row={row} />
        ))}
      </ul>
      {machine.errors.length === 0 && <p class="muted">None.</p>}
    </Panel>
  );
}

function Group({ group }: { group: ErrorGroup }) {
  const became = Object.entries(group.policies).map(([policy, times]) => `${policy} ${count(times)}`);
  return (
    <li class="record" data-testid={`group-${group.slot}-${group.exc_class}`}>
      <details>
        <summary>
          <strong class={group.open > 0 ? "bad" : ""}>{count(group.count)}×</strong>
          <span class="tag">slot {group.slot}</span>
          {group.resolved ? (
            <span class="tag tag-good">resolved</span>
          ) : (
            group.open > 0 && <span class="tag">{count(group.open)} open</span>
          )}
          <span class="line">
            {cut(exceptionText(group.exc_class, group.exc_value), GROUP_CHARACTERS)} <span class="muted">{placeText(group)}</span>
          </span>
        </summary>
        <p class="muted small">
          {rate(group.rate_per_min)} a minute · {timeOfDay(group.first_time)} to {timeOfDay(group.last_time)} ·{" "}
          {became.join(", ")} · last message <code>{group.last_oid}</code>
        </p>
        <LongText text={group.exc_tb} class="code" />
        <p class="muted small">Last message</p>
        <LongText text={group.input} class="value" />
      </details>
    </li>
  );
}

function Row({ row }: { row: ErrorRow }) {
  return (
    <li class="record">
      <details>
        <summary>
          <time class="muted">{timeOfDay(row.time)}</time>
          <span class="tag">slot {row.slot}</span>
          {row.resolved && <span class="tag tag-good">resolved</span>}
          {row.policy !== "record" && <span class="tag">{row.policy}</span>}
          <span class="line">
            <strong class="bad">{row.exc_class || "Exception"}</strong> {saidText(row.exc_value)}
          </span>
        </summary>
        <p class="muted small">
          {row.task} · message <code>{row.oid}</code> · number {count(row.seq)} · attempt {row.attempt} · tries{" "}
          {row.tries} · revision {row.revision} · {placeText(row)}
        </p>
        <LongText text={row.exc_tb} class="code" />
        <p class="muted small">Message</p>
        <LongText text={row.input} class="value" />
      </details>
    </li>
  );
}
