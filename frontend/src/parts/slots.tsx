/** The slots: their functions and counters, and for an admin an editor for the function. */

import { useState } from "preact/hooks";
import type { SlotCounts, SlotInfo, Status } from "../contract";
import { count, counted, duration, policyText } from "../format";
import { may, trialView, type TrialView } from "../model";
import type { Api } from "../seam";
import { signatureOf } from "../signature";
import { Trial } from "./trial";
import { Panel, Problem, useAction } from "./common";

interface SlotsProps {
  api: Api;
  role: string | null;
  status: Status;
  slots: readonly SlotInfo[];
}

export function Slots({ api, role, status, slots }: SlotsProps) {
  const set = slots.filter((slot) => !slot.identity).length;
  return (
    <Panel title="Slots" aside={<span class="muted">{`${set} of ${slots.length} set · revision ${status.revision}`}</span>}>
      <ol class="slots">
        {slots.map((slot) => (
          <Slot key={slot.slot} api={api} role={role} slot={slot} counts={countsOf(status, slot)} />
        ))}
      </ol>
    </Panel>
  );
}

function countsOf(status: Status, slot: SlotInfo): SlotCounts | null {
  return status.slots.find((counts) => counts.slot === slot.slot) ?? slot.counts;
}

interface SlotProps {
  api: Api;
  role: string | null;
  slot: SlotInfo;
  counts: SlotCounts | null;
}

function Slot({ api, role, slot, counts }: SlotProps) {
  const [editing, setEditing] = useState(false);
  const title = slot.name ?? slot.function ?? (slot.identity ? "not set" : "function");
  return (
    <li class={slot.identity ? "slot unset" : "slot"} data-testid={`slot-${slot.slot}`}>
      <details>
        <summary>
          <span class="number">{slot.slot}</span>
          <span class="title">{title}</span>
          {slot.name && slot.function && slot.function !== slot.name && <code class="muted">{slot.function}</code>}
          {!slot.identity && slot.kind !== "function" && <span class="tag">{slot.kind}</span>}
          {slot.policy && (
            <span class="tag" data-testid={`policy-${slot.slot}`} title="what becomes of a message when it raises">
              {policyText(slot.policy)}
            </span>
          )}
          {counts && !slot.identity && <Counts counts={counts} />}
        </summary>
        <div class="slot-body">
          {!slot.identity && <p class="muted small">{aboutText(slot)}</p>}
          {editing ? (
            <Editor api={api} slot={slot} onDone={() => setEditing(false)} />
          ) : (
            <>
              <Code slot={slot} />
              {may(role, "slot_set") && (
                <button type="button" onClick={() => setEditing(true)}>
                  {slot.identity ? "Write a function" : "Edit"}
                </button>
              )}
            </>
          )}
        </div>
      </details>
    </li>
  );
}

function aboutText(slot: SlotInfo): string {
  const takes = `Takes ${counted(slot.values, "value")}`;
  const texts = slot.texts ? ` and ${counted(slot.texts, "JSON text")}` : "";
  return `${takes}${texts} · set in revision ${slot.revision}${slot.author ? ` by ${slot.author}` : ""}`;
}

function Counts({ counts }: { counts: SlotCounts }) {
  return (
    <span class="slot-counts">
      <span>{counted(counts.calls, "call")}</span>
      {counts.errors > 0 && <span class="bad">{counted(counts.errors, "error")}</span>}
      {counts.skipped > 0 && <span class="muted">{count(counts.skipped)} skipped</span>}
      {counts.retries > 0 && <span class="muted">{counted(counts.retries, "retry", "retries")}</span>}
      {counts.timeouts > 0 && <span class="bad">{counted(counts.timeouts, "timeout")}</span>}
      {counts.p50_s !== null && (
        <span class="muted" title="median and 99th percentile of one message in 32">
          {duration(counts.p50_s)} · p99 {duration(counts.p99_s)}
        </span>
      )}
    </span>
  );
}

function Code({ slot }: { slot: SlotInfo }) {
  if (slot.identity) return <p class="muted">What comes in goes on unchanged.</p>;
  if (slot.source === null) return <p class="muted">{NO_SOURCE}</p>;
  return (
    <pre class="code" tabIndex={0}>
      {slot.source}
    </pre>
  );
}

const NEW_FUNCTION = "def f(value):\n    return value\n";
const NO_SOURCE = "Its source text cannot be shown: Python knows none for it. It runs all the same.";

/** What the editor begins with; for a function without a source text its first line alone. */
function firstText(slot: SlotInfo): string {
  if (slot.identity) return NEW_FUNCTION;
  return slot.source ?? signatureOf(slot);
}

function Editor({ api, slot, onDone }: { api: Api; slot: SlotInfo; onDone: () => void }) {
  const [first] = useState(() => firstText(slot));
  const [source, setSource] = useState(first);
  const [tried, setTried] = useState<readonly TrialView[] | null>(null);
  const { busy, failure, run } = useAction();
  const unknown = !slot.identity && slot.source === null;
  const empty = !source.trim() || (unknown && source.trim() === first.trim());
  const id = `slot-${slot.slot}-source`;
  const submit = async (event: Event): Promise<void> => {
    event.preventDefault();
    if (await run(() => api.send({ kind: "slot_set", slot: slot.slot, source, name: slot.name }))) onDone();
  };
  const tryOut = (): Promise<boolean> =>
    run(async () => {
      setTried(null);
      setTried((await api.trial(slot.slot, source)).map(trialView));
    });
  const clear = async (): Promise<void> => {
    if (await run(() => api.send({ kind: "slot_delete", slot: slot.slot }))) onDone();
  };
  return (
    <form class="editor" onSubmit={(event) => void submit(event)}>
      {unknown && <p class="muted small">{`${NO_SOURCE} What you set here takes its place.`}</p>}
      <label for={id}>Python source of slot {slot.slot}: one function, or one lambda</label>
      <textarea
        id={id}
        rows={Math.min(24, Math.max(5, source.split("\n").length + 1))}
        spellcheck={false}
        autocomplete="off"
        value={source}
        aria-invalid={failure !== null}
        aria-describedby={`${id}-problem`}
        onInput={(event) => {
          setSource(event.currentTarget.value);
          setTried(null); // it was of another text
        }}
      />
      <Problem text={failure} id={`${id}-problem`} />
      {tried && <Trial rows={tried} />}
      <div class="row">
        <button type="submit" class="primary" disabled={busy || empty}>
          {busy ? "Working…" : "Set"}
        </button>
        <button type="button" disabled={busy || empty} title="Run it on the newest records; nothing changes" onClick={() => void tryOut()}>
          Try
        </button>
        <button type="button" disabled={busy} onClick={onDone}>
          Cancel
        </button>
        {!slot.identity && (
          <button type="button" class="danger" disabled={busy} onClick={() => void clear()}>
            Clear the slot
          </button>
        )}
      </div>
      <p class="muted small">
        “Try” runs it on the newest records and changes nothing. Once set, it runs from the next message on; messages under way keep
        the old one.
      </p>
    </form>
  );
}
