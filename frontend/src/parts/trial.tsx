/** What a function did on the newest records, beside what the records have. */

import { count, cut } from "../format";
import type { TrialView } from "../model";

const SHOWN_CHARACTERS = 200;

export function Trial({ rows }: { rows: readonly TrialView[] }) {
  if (rows.length === 0) return <p class="muted small" role="status">No records are kept, so there is nothing to try it on.</p>;
  const changed = rows.filter((row) => row.differs || row.failed);
  return (
    <div class="trial" data-testid="trial">
      <p role="status" class={rows.some((row) => row.failed) ? "bad" : ""}>
        <strong>{summary(rows)}</strong>
      </p>
      {changed.length > 0 && (
        <ul class="rows" aria-label="Records with another outcome">
          {[...changed].reverse().map((row) => (
            <Row key={row.oid} row={row} />
          ))}
        </ul>
      )}
    </div>
  );
}

/** `3 of the newest 10 records differ; 1 of 10 fails` */
function summary(rows: readonly TrialView[]): string {
  const failed = rows.filter((row) => row.failed).length;
  const differ = rows.filter((row) => row.differs).length;
  const records = rows.length === 1 ? "the newest record" : `the newest ${count(rows.length)} records`;
  if (failed === rows.length) return `It fails on ${records}.`;
  const outcome = differ === 0 ? `No outcome differs on ${records}` : `${count(differ)} of ${count(rows.length)} outcomes differ on ${records}`;
  return failed === 0 ? `${outcome}; none fails.` : `${outcome}; it fails on ${count(failed)}.`;
}

function Row({ row }: { row: TrialView }) {
  return (
    <li>
      <dl>
        <dt>message</dt>
        <dd>
          <code>{cut(row.input, SHOWN_CHARACTERS)}</code>
        </dd>
        <dt>now</dt>
        <dd>
          <code class="muted">{row.before === null ? "–" : cut(row.before, SHOWN_CHARACTERS)}</code>
        </dd>
        <dt>new</dt>
        <dd>
          <code class={row.failed ? "bad" : ""}>{cut(row.after, SHOWN_CHARACTERS)}</code>
        </dd>
      </dl>
    </li>
  );
}
