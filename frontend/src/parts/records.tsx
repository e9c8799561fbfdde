/** The latest records, newest first. */

import { useRef, useState } from "preact/hooks";
import type { SlotInfo } from "../contract";
import { bytes, count, oneLine, pretty } from "../format";
import { exceptionText, isException } from "../model";
import type { Api, MachineView, RecordView } from "../seam";
import { LongText, Panel } from "./common";

export function Records({ api, machine }: { api: Api; machine: MachineView }) {
  const [paused, setPaused] = useState(false);
  const frozen = useRef(machine.records);
  if (!paused) frozen.current = machine.records;
  const toggle = (): void => {
    void api.send({ kind: "follow", on: paused }); // records are received only while they are shown
    setPaused(!paused);
  };
  const sampled = machine.sampled > 1 ? `one in ${count(machine.sampled)} shown · ` : "";
  const aside = (
    <>
      <span class="muted">{`${sampled}${frozen.current.length} latest`}</span>
      <button type="button" class="quiet" aria-pressed={paused} onClick={toggle}>
        {paused ? "Go on" : "Hold"}
      </button>
    </>
  );
  return (
    <Panel title="Records" aside={aside}>
      <ul class="rows" aria-label="Latest records">
        {frozen.current.map((record) => (
          <Record key={record.key} record={record} slots={machine.slots} onOpen={() => paused || toggle()} />
        ))}
      </ul>
      {frozen.current.length === 0 && <p class="muted">None yet.</p>}
    </Panel>
  );
}

interface RecordProps {
  record: RecordView;
  slots: readonly SlotInfo[];
  /** Pause the list while the user reads a record. */
  onOpen: () => void;
}

function Record({ record, slots, onOpen }: RecordProps) {
  const [open, setOpen] = useState(false);
  const onToggle = (now_open: boolean): void => {
    setOpen(now_open);
    if (now_open) onOpen();
  };
  return (
    <li class={record.errored ? "record errored" : "record"}>
      <details onToggle={(event) => onToggle(event.currentTarget.open)}>
        <summary>
          <code class="oid" title={record.oid}>
            {record.oid.slice(-8)}
          </code>
          {record.errored && <span class="tag tag-bad">error</span>}
          <code class="line">{summary(record)}</code>
        </summary>
        {open && <Values record={record} slots={slots} />}
      </details>
    </li>
  );
}

function summary(record: RecordView): string {
  if (record.values === null) return `too large to show: ${bytes(record.text_bytes ?? 0)}`;
  const last = record.values.at(-1);
  const failed = record.values.find(isException);
  if (failed) return exceptionText(failed._exception.exc_class ?? "", failed._exception.exc_value ?? "");
  return oneLine(last, 160);
}

function Values({ record, slots }: { record: RecordView; slots: readonly SlotInfo[] }) {
  const values = record.values ?? [];
  const known = record.seq === null ? "" : ` · number ${count(record.seq)} · revision ${record.revision}`;
  return (
    <div class="values">
      <p class="muted small">
        <code>{record.oid}</code>
        {known}
      </p>
      <dl>
        {values.map((value, index) => {
          const slot = slots[index - 1];
          if (index > 0 && slot?.identity) return null; // it passes the previous value on
          return (
            <div key={index}>
              <dt>{index === 0 ? "in" : (slot?.name ?? `slot ${index - 1}`)}</dt>
              <dd>
                <LongText text={pretty(value)} class="value" />
              </dd>
            </div>
          );
        })}
      </dl>
    </div>
  );
}
