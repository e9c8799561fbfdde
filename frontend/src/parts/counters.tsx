/** The machine's counters: put = processed + errored + dropped + queued + in flight. */

import type { Status } from "../contract";
import { count, rate } from "../format";
import { ratePerS, type Counter as Counted } from "../model";
import type { Point } from "../seam";

export function Counters({ status, points }: { status: Status; points: readonly Point[] }) {
  const perS = (counter: Counted): string | undefined => {
    const now = ratePerS(points, counter);
    return now === null ? undefined : `${rate(now)} /s`;
  };
  const part = status.queue_capacity ? Math.min(1, status.queue_size / status.queue_capacity) : 0;
  return (
    <dl class="counters">
      <Counter name="Put" value={status.put} />
      <Counter name="Processed" value={status.processed} note={perS("processed")} />
      <Counter name="Errored" value={status.errored} bad note={status.errored > 0 ? perS("errored") : undefined} />
      <Counter name="Dropped" value={status.dropped} bad note={sourceDropText(status)} />
      <Counter name="Refused" value={status.refused} bad />
      <Counter name="In flight" value={status.in_flight} note={retryingText(status)} />
      <div class="counter wide">
        <dt id="queue-label">Queue</dt>
        <dd>
          {count(status.queue_size)} <span class="muted">of {count(status.queue_capacity)}</span>
          <div
            class="bar"
            role="meter"
            aria-labelledby="queue-label"
            aria-valuemin={0}
            aria-valuemax={status.queue_capacity}
            aria-valuenow={status.queue_size}
          >
            <div class={part > 0.9 ? "full" : ""} style={{ width: `${100 * part}%` }} />
          </div>
        </dd>
      </div>
    </dl>
  );
}

function retryingText(status: Status): string | undefined {
  return status.retrying > 0 ? `${count(status.retrying)} retrying` : undefined;
}

function sourceDropText(status: Status): string | undefined {
  const { dropped, options } = status.source;
  return dropped > 0 ? `${count(dropped)} by the source (${(options.policy ?? "wait").replace("_", " ")})` : undefined;
}

function Counter(props: { name: string; value: number; note?: string | undefined; bad?: boolean }) {
  return (
    <div class="counter">
      <dt>{props.name}</dt>
      <dd class={props.bad && props.value > 0 ? "bad" : ""} data-testid={`count-${props.name.toLowerCase().replace(" ", "-")}`}>
        {count(props.value)}
      </dd>
      {props.note && <dd class="note muted small">{props.note}</dd>}
    </div>
  );
}
