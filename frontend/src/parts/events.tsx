/** The machine's events, newest first. */

import type { Event } from "../contract";
import { oneLine, timeOfDay } from "../format";
import { Panel } from "./common";

export function Events({ events }: { events: readonly Event[] }) {
  return (
    <Panel title="Events" aside={<span class="muted">{`${events.length} latest`}</span>}>
      <ul class="rows events" aria-label="Latest events">
        {events.map((event) => (
          <li key={event.number}>
            <time class="muted">{timeOfDay(event.time)}</time>
            <strong>{event.kind.replaceAll("_", " ")}</strong>
            {event.author && <span class="muted">by {event.author}</span>}
            {Object.keys(event.data).length > 0 && <code class="line muted">{oneLine(event.data, 200)}</code>}
          </li>
        ))}
      </ul>
      {events.length === 0 && <p class="muted">None yet.</p>}
    </Panel>
  );
}
