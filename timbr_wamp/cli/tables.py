"""Tables and texts for the terminal. Pure functions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
from rich.console import Group
from rich.table import Table
from rich.text import Text

from timbr_wamp.contract import (
    ErrorGroup,
    ErrorRow,
    KernelInfo,
    Policy,
    Record,
    RevisionInfo,
    SlotInfo,
    Status,
    outcome_kind,
)
from timbr_wamp.errors import class_and_text
from timbr_wamp.faces.cards import policy_text, source_text
from timbr_wamp.tables import duration

STATE_STYLES = {
    "running": "green", "idle": "green", "busy": "yellow", "paused": "yellow", "draining": "yellow",
    "starting": "yellow", "restarting": "yellow", "failed": "bold red", "dead": "bold red", "offline": "red",
}  # fmt: skip

#: Longest text of a message, and of each value, on a record's line.
INPUT_WIDTH, VALUE_WIDTH = 32, 64


def state_text(state: str) -> Text:
    """Return a state in its colour."""
    return Text(state, style=STATE_STYLES.get(state, ""))


def clock_text(seconds: float | None) -> str:
    """Return UTC seconds as local time of day."""
    return "–" if seconds is None else datetime.fromtimestamp(seconds).strftime("%H:%M:%S.%f")[:-4]


def duration_text(seconds: float | None) -> str:
    """Return a duration with a unit that suits its size.

    >>> duration_text(0.00025), duration_text(0.3), duration_text(75), duration_text(7300)
    ('250 µs', '300 ms', '1 min 15 s', '2 h 1 min')
    """
    return duration(seconds) or "–"


def kernels_table(kernels: Sequence[KernelInfo]) -> Table:
    """Return the table of `timbr-wamp list`."""
    table = _table("kernel", "name", "host", "state", "machines", "since")
    now = time.time()
    for info in kernels:
        machines = Text(", ").join(
            Text.assemble(machine.name, " ", state_text(machine.state)) for machine in info.machines
        )
        since = duration_text(now - info.started_at) if info.started_at else "–"
        table.add_row(info.kernel_id, info.name, info.host, state_text(info.state), machines, since)
    return table


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
        ("last", f"{status.last_oid or '–'} (number {status.last_seq:,}) at {clock_text(status.last_processed_time)}"),
        ("source", source_text(status.source, bar=False)),
        ("on error", _error_handling_text(status)),
    ]
    if effects := _policies_text(status):
        rows.append(("policies", effects))
    if status.hook_failures or status.events_dropped:
        lost = f"{status.hook_failures:,} of hooks, {status.events_dropped:,} events dropped because hooks were slow"
        rows.append(("failures", Text(lost, style="red")))
    for name, value in rows:
        facts.add_row(Text(name, style="dim"), Text(value) if isinstance(value, str) else value)
    if not status.slots:
        return Group(facts)
    return Group(facts, Text(), counts_table(status, slots))


def _error_handling_text(status: Status) -> str:
    handler = "" if status.handler == "BaseEventHandler" else f", handler {status.handler}"
    many = f", {status.concurrency} at once" if status.concurrency > 1 else ""
    return f"{policy_text(status.on_error)}{handler}; executor {status.executor}{many}"


def _policies_text(status: Status) -> str:
    """Return how often policies took effect; empty if never."""
    done = status.policies
    counts = {
        "waiting for a retry": status.retrying, "retries": done.retries, "mended": done.mended,
        "defaults": done.defaults, "dead letters": done.dead_letters, "pauses": done.pauses, "stops": done.stops,
        "timeouts": done.timeouts, "abandoned": done.abandoned,
    }  # fmt: skip
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def counts_table(status: Status, slots: Sequence[SlotInfo] = ()) -> Table:
    """Return counters and timings of the slots that have run."""
    names = {slot.slot: slot.name or "" for slot in slots}
    policies: dict[int, Policy | None] = {slot.slot: slot.policy for slot in slots}
    table = _table("slot", "name", "on error", "calls", "errors", "skipped", "retries", "p50", "p99")
    for counts in status.slots:
        if not (counts.calls or counts.errors or counts.skipped):
            continue
        table.add_row(
            f"f{counts.slot}",
            names.get(counts.slot, ""),
            policy_text(own) if (own := policies.get(counts.slot)) is not None else "",
            f"{counts.calls:,}",
            Text(f"{counts.errors:,}", style="red" if counts.errors else ""),
            f"{counts.skipped:,}",
            f"{counts.retries:,}",
            duration_text(counts.p50_s),
            duration_text(counts.p99_s),
        )
    return table


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
                (f"  {info.function or '?'}{kind}, gets {_gets(info)}, since revision {info.revision}{by}", "dim"),
            )
        )  # fmt: skip
        source = info.source or "(no source text)"
        blocks.append(Text("\n".join(f"    {line}" for line in source.splitlines()) + "\n"))
    unset = ", ".join(f"f{info.slot}" for info in slots if info.identity)
    return Group(*blocks, *([Text(f"unset: {unset}", style="dim")] if unset else []))


def _gets(info: SlotInfo) -> str:
    if info.values < 0:
        return "all values"
    texts = f" + {info.texts} texts" if info.texts else ""
    return f"{info.values} value{'' if info.values == 1 else 's'}{texts}"


def error_groups_table(groups: Sequence[ErrorGroup]) -> Table:
    """Return a table of error groups."""
    table = _table("slot", "error", "where", "count", "per min", "open", "last", "last message", "policies")
    for group in groups:
        _add(
            table,
            group.task or f"f{group.slot}",
            Text(class_and_text(group.exc_class, cut(group.exc_value)), style="" if group.resolved else "red"),
            group.where,
            f"{group.count:,}",
            f"{group.rate_per_min:.1f}",
            "resolved" if group.resolved else f"{group.open:,}",
            clock_text(group.last_time),
            cut(group.input, INPUT_WIDTH),
            ", ".join(f"{name} {count:,}" for name, count in group.policies.items()),
        )
    return table


def errors_table(rows: Sequence[ErrorRow]) -> Table:
    """Return a table of single failures."""
    table = _table("record", "time", "slot", "error", "where", "message", "message id", "tries", "policy", "resolved")
    for row in rows:
        _add(
            table,
            f"{row.seq:,}" if row.seq else "–",
            clock_text(row.time),
            row.task or f"f{row.slot}",
            Text(class_and_text(row.exc_class, cut(row.exc_value)), style="" if row.resolved else "red"),
            row.where,
            cut(row.input, INPUT_WIDTH),
            row.oid,
            str(row.tries),
            row.policy,
            "yes" if row.resolved else "",
        )
    return table


def revisions_table(revisions: Sequence[RevisionInfo]) -> Table:
    """Return a table of the kept revisions."""
    table = _table("number", "time", "by", "change", "functions")
    for one in revisions:
        functions = ", ".join(name or "·" for name in one.functions)
        _add(table, str(one.number), clock_text(one.time), one.author or "", one.change, functions)
    return table


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


def _add(table: Table, *cells: str | Text) -> None:
    """Add a row of literal texts; rich would interpret markup in a plain ``str``."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column == "message id")  # so that ids can be copied
    return table
