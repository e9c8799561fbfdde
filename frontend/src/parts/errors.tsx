/** What slots raised, newest first, with traceback. */

import type { ErrorRow } from "../contract";
import { count, timeOfDay } from "../format";
import { errorKey, may } from "../model";
import type { Api, MachineView } from "../seam";
import { LongText, Panel, Problem, useAction } from "./common";

export function Errors({ api, role, machine }: { api: Api; role: string | null; machine: MachineView }) {
  const { busy, failure, run } = useAction();
  const unresolved = machine.errors.filter((row) => !row.resolved).length;
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
      <ul class="rows" aria-label="Latest errors">
        {machine.errors.map((row) => (
          <Row key={errorKey(row)} row={row} />
        ))}
      </ul>
      {machine.errors.length === 0 && <p class="muted">None.</p>}
    </Panel>
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
          <span class="line">
            <strong class="bad">{row.exc_class}</strong> {row.exc_value}
          </span>
        </summary>
        <p class="muted small">
          {row.task} · message <code>{row.oid}</code> · number {count(row.seq)} · attempt {row.attempt} · revision{" "}
          {row.revision}
        </p>
        <LongText text={row.exc_tb} class="code" />
        <p class="muted small">Message</p>
        <LongText text={row.input} class="value" />
      </details>
    </li>
  );
}
