"""Tables and texts for the terminal. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from rich.console import Group
from rich.table import Table
from rich.text import Text

from timbr_wamp.contract import Record, SlotInfo, Status, outcome_kind
from timbr_wamp.errors import class_and_text, counted
from timbr_wamp.faces.cards import policy_text, slots_table, source_text
from timbr_wamp.faces.tables import gets_text
from timbr_wamp.tables import CELL_LIMIT, STATE_TONES, StatusTable, Tone, duration

#: Styles of tones in a terminal.
STYLES: dict[Tone, str] = {"": "", "good": "green", "attention": "yellow", "bad": "red"}

#: Columns that are not broken into lines.
WHOLE = frozenset({"id", "message id", "time", "last"})
#: Longest text of a message, and of each value, on a record's line.
INPUT_WIDTH, VALUE_WIDTH = 32, 64


def state_text(state: str) -> Text:
    """Return a state in its colour."""
    return Text(state, style=STYLES[STATE_TONES.get(state, "")])


def clock_text(seconds: float | None) -> str:
    """Return UTC seconds as local time of day."""
    return "–" if seconds is None else datetime.fromtimestamp(seconds).strftime("%H:%M:%S.%f")[:-4]


def duration_text(seconds: float | None) -> str:
    """Return a duration with a unit that suits its size.

    >>> duration_text(0.00025), duration_text(0.3), duration_text(75), duration_text(7300)
    ('250 µs', '300 ms', '1 min 15 s', '2 h 1 min')
    """
    return duration(seconds) or "–"


def rich_table(table: StatusTable) -> Table:
    """Return a table for a terminal, with colours and columns that fit."""
    headers, rows = table.visible()
    shown = Table(box=None, pad_edge=False, header_style="dim", show_header=bool(headers))
    if not rows:
        shown.add_column(Text(table.empty))
        return shown
    for number in range(len(rows[0])):
        right = all(row[number].right or not row[number].text for row in rows)
        header = headers[number] if headers else ""
        # ids are not broken, so that they can be copied
        shown.add_column(Text(header), overflow="fold", no_wrap=header in WHOLE, justify="right" if right else "left")
    for row in rows:
        shown.add_row(*(Text(cut(cell.text, CELL_LIMIT), style=STYLES[cell.tone]) for cell in row))
    return shown


def status_view(status: Status, slots: Sequence[SlotInfo] = ()) -> Group:
    """Return a machine's status: counters, source, and counters of its slots."""
    facts = Table.grid(padding=(0, 3))
    state = Text.assemble(state_text(status.state), f" ({status.reason})" if status.reason else "")
    one_s, ten_s, minute = status.rate_per_s
    rows: list[tuple[str, Text | str]] = [
        ("machine", f"{status.name}, run {status.run}, revision {status.revision}"),
        ("state", Text.assemble(state, f", up {duration_text(status.uptime_s)}")),
        ("processed", f"{status.processed:,} of {status.put:,} put"),
        ("errored", Text(f"{status.errored:,}", style="red" if status.errored else "")),
        ("dropped, refused", f"{status.dropped:,}, {status.refused:,}"),
        ("queued", f"{status.queue_size:,} of {status.queue_capacity:,}, {status.in_flight} in flight"),
        ("rate", f"{one_s:,.1f}/s now, {ten_s:,.1f}/s over 10 s, {minute:,.1f}/s over 1 min"),
        ("last", _last_text(status)),
        ("source", source_text(status.source, bar=False)),
        ("on error", _error_handling_text(status)),
    ]
    if effects := _policies_text(status):
        rows.append(("policies", effects))
    if status.hook_failures or status.events_dropped:
        events = counted(status.events_dropped, "event")
        lost = f"{status.hook_failures:,} of hooks, {events} dropped because hooks were slow"
        rows.append(("failures", Text(lost, style="red")))
    for name, value in rows:
        facts.add_row(Text(name, style="dim"), Text(value) if isinstance(value, str) else value)
    if not status.slots:
        return Group(facts)
    return Group(facts, Text(), rich_table(slots_table(status, slots)))


def _last_text(status: Status) -> str:
    if not status.last_seq:
        return "no record yet"
    return f"record {status.last_seq:,} of message {status.last_oid} at {clock_text(status.last_processed_time)}"


def _error_handling_text(status: Status) -> str:
    handler = "" if status.handler == "BaseEventHandler" else f", handler {status.handler}"
    many = f", {status.concurrency} at once" if status.concurrency > 1 else ""
    return f"{policy_text(status.on_error)}{handler}; executor {status.executor}{many}"


def _policies_text(status: Status) -> str:
    """Return how often policies took effect; empty if never."""
    done = status.policies
    counts = (
        (status.retrying, "waiting for a retry", "waiting for a retry"), (done.retries, "retry", "retries"),
        (done.mended, "mended", "mended"), (done.defaults, "default", None), (done.dead_letters, "dead letter", None),
        (done.pauses, "pause", None), (done.stops, "stop", None), (done.timeouts, "timeout", None),
        (done.abandoned, "abandoned", "abandoned"),
    )  # fmt: skip
    return ", ".join(counted(*each) for each in counts if each[0])


def slots_view(slots: Sequence[SlotInfo]) -> Group:
    """Return the functions in the slots, with their source texts, and the list of unset slots."""
    blocks: list[Text] = []
    for info in slots:
        if info.identity:
            continue
        by = f" by {info.author}" if info.author else ""
        if info.policy is not None:
            by += f"; {policy_text(info.policy)}"
        kind = "" if info.kind == "function" else f" ({info.kind})"
        blocks.append(
            Text.assemble(
                (f"f{info.slot}", "bold cyan"), (f" {info.name}" if info.name else "", "bold"),
                (f"  {info.function or '?'}{kind}, gets {gets_text(info)}, since revision {info.revision}{by}", "dim"),
            )
        )  # fmt: skip
        source = info.source or "(no source text)"
        blocks.append(Text("\n".join(f"    {line}" for line in source.splitlines()) + "\n"))
    unset = ", ".join(f"f{info.slot}" for info in slots if info.identity)
    return Group(*blocks, *([Text(f"unset: {unset}", style="dim")] if unset else []))


def record_line(record: Record, *, with_oid: bool = True) -> Text:
    """Return a record on one line: number, time, id, message, and each value that differs from the previous one."""
    line = Text.assemble((f"{record.seq:>8} ", "bold"), (f"{clock_text(record.finished_at)} ", "dim"))
    if with_oid:
        line.append(f"{record.oid} ", style="dim")
    if record.attempt > 1:
        line.append(f"attempt {record.attempt} ", style="yellow")
    if record.meta.text_bytes is not None:
        return line.append(f"(a row of {record.meta.text_bytes:,} bytes)", style="yellow")
    before = record.input
    line.append(compact(before, INPUT_WIDTH))
    for number, value in enumerate(record.values):
        if value == before:
            continue
        line.append(f"  f{number} ", style="cyan")
        kind = outcome_kind(value)
        line.append(compact(value) if kind == "value" else failure_text(value), style="" if kind == "value" else "red")
        before = value
    return line


def failure_text(value: dict[str, Any]) -> str:
    """Return class and text of the error of a failed or skipped slot."""
    detail = value["_exception"]
    return class_and_text(str(detail.get("exc_class")), str(detail.get("exc_value") or ""))


def compact(value: object, width: int = VALUE_WIDTH) -> str:
    """Return a value's JSON text, cut to ``width`` characters."""
    return cut(orjson.dumps(value).decode(), width)


def cut(text: str, width: int = VALUE_WIDTH) -> str:
    """Return a text on one line, cut to ``width`` characters."""
    text = " ".join(text.split())
    return text if len(text) <= width else text[: width - 1] + "…"
