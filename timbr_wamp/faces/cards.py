"""Cards that summarize a machine: status, source, progress and slots, as HTML and as text.

Pure functions from structs to texts. For escaping and limits see `timbr_wamp.tables`. The functions
that draw a whole machine never raise, because ``repr`` and notebook displays call them, also with
what a subclass of `Machine` returns as its status.
"""

from __future__ import annotations

from collections.abc import Sequence

from timbr_wamp.contract.structs import ErrorRow, Policy, Progress, SlotCounts, SlotInfo, SourceStatus, Status
from timbr_wamp.errors import class_and_text, counted
from timbr_wamp.faces.preview import never_raises
from timbr_wamp.names import DEFAULT_MACHINE
from timbr_wamp.tables import HAIRLINE, Cell, StatusTable, count_cell, duration, html_text, printable, timestamp

#: Colours that are readable on light and dark backgrounds.
STATE_COLOURS = {
    "running": "#2ea043", "paused": "#d29922", "draining": "#d29922", "failed": "#e5534b",
}  # fmt: skip
QUIET_COLOUR = "#8b949e"
#: Failures shown on a machine's card.
CARD_ERRORS = 5
#: Width of a text progress bar, in characters.
BAR_WIDTH = 24

_BOX = f"display:inline-block;border:{HAIRLINE};border-radius:4px;padding:.3em .8em;margin:.2em .4em .2em 0"
_DIM = "opacity:.7"


@never_raises(html=True)
def machine_html(status: Status, slots: Sequence[SlotInfo] = (), errors: Sequence[ErrorRow] = ()) -> str:
    """Return a machine's card as HTML: its status, its slots with their functions, its newest failures."""
    parts = [_head_html(status), _boxes_html(status), _facts_html(status), source_html(status.source)]
    table = slots_table(status, slots)
    parts.append(table._repr_html_() if len(table) else "")
    if slots or not len(table):
        parts.append(f'<div style="{_DIM}">{html_text(_unset(status, slots))}</div>')
    if errors:
        parts.append(errors_table(errors)._repr_html_())
    return f'<div style="color:inherit;line-height:1.4">{"".join(parts)}</div>'


@never_raises()
def machine_text(status: Status, slots: Sequence[SlotInfo] = (), errors: Sequence[ErrorRow] = ()) -> str:
    """Return a machine's card for a terminal, without a trailing line end."""
    facts = StatusTable(rows=[*_boxes(status), *_facts(status), ("source", source_text(status.source))])
    table = slots_table(status, slots)
    parts = [_head(status), str(facts)]
    if len(table):
        parts.append(str(table))
    if slots or not len(table):
        parts.append(_unset(status, slots))
    if errors:
        parts.append(str(errors_table(errors)))
    return "\n".join(part for part in parts if part)


@never_raises()
def machine_line(status: Status) -> str:
    """Return a machine's state and main counters in one line, for ``repr``."""
    return (
        f"{status.state}: {status.processed} processed, {status.errored} errored, "
        f"{status.queue_size} queued, revision {status.revision}"
    )


# --- source and progress ---------------------------------------------------------------------


def source_html(source: SourceStatus) -> str:
    """Return one line about the source, with a progress bar when its total is known."""
    bar = bar_html(percentage(source.count, source.total)) if source.total is not None else ""
    return f"<div>source: {html_text(source_text(source, bar=False), 400)}</div>{bar}"


def source_text(source: SourceStatus, *, bar: bool = True) -> str:
    """Return the source's state, counters and error as text."""
    if source.state == "none":
        return "none; messages arrive through put()"
    parts = [source.state, f"{source.count:,}{'' if source.total is None else f' of {source.total:,}'} read"]
    if source.eta_s is not None:
        parts.append(f"about {duration(source.eta_s)} left")
    parts += [f"{source.dropped:,} dropped ({source.options.policy})"] if source.dropped else []
    parts += [f"restarted {counted(source.restarts, 'time')}"] if source.restarts else []
    parts += [source.error] if source.error else []
    text = ", ".join(parts)
    return f"{text}  {bar_text(percentage(source.count, source.total))}" if bar and source.total is not None else text


def progress_html(progress: Progress) -> str:
    """Return a machine's progress as a line and, when the total is known, a bar."""
    bar = bar_html(progress.percentage) if progress.percentage is not None else ""
    return f"<div>{_dot(progress.state)} {html_text(progress_counts(progress))}</div>{bar}"


def progress_text(progress: Progress) -> str:
    """Return a machine's progress as one line, with a bar when the total is known.

    >>> print(progress_text(Progress(done=25, total=100, percentage=25.0, rate_per_s=12.5, eta_s=6.0, state="running")))
    [██████··················]  25 %  25 of 100 messages recorded, 12.5 messages/s, about 6 s left
    """
    bar = f"{bar_text(progress.percentage)}  " if progress.percentage is not None else ""
    return bar + progress_counts(progress)


def progress_counts(progress: Progress) -> str:
    """Return a machine's progress as text without a bar."""
    done = "" if progress.total is None else f"{progress.done:,} of "
    parts = [f"{done}{counted(progress.done if progress.total is None else progress.total, 'message')} recorded"]
    parts += [f"{progress.errored:,} errored"] if progress.errored else []
    parts += [f"{progress.rate_per_s:,.1f} messages/s"] if progress.rate_per_s else []
    if progress.complete:
        parts.append("complete")
    elif progress.eta_s is not None:
        parts.append(f"about {duration(progress.eta_s)} left")
    parts += [progress.state] if progress.state != "running" and not progress.complete else []
    return ", ".join(parts)


def percentage(done: int, total: int | None) -> float | None:
    """Return ``done`` of ``total`` as 0 to 100; None when the total is unknown, 100 when it is 0."""
    if total is None:
        return None
    return 100.0 if total <= 0 else min(max(100.0 * done / total, 0.0), 100.0)


def bar_html(percent: float | None) -> str:
    """Return an HTML progress bar filled to ``percent``."""
    width = min(max(percent or 0.0, 0.0), 100.0)
    return (
        f'<div role="progressbar" aria-valuenow="{width:.0f}" aria-valuemin="0" aria-valuemax="100" '
        f'style="max-width:24em;height:.6em;border:{HAIRLINE};border-radius:4px;overflow:hidden;margin:.2em 0">'
        f'<div style="width:{width:.1f}%;height:100%;background:{STATE_COLOURS["running"]}"></div></div>'
    )


def bar_text(percent: float | None) -> str:
    """Return a text progress bar filled to ``percent``."""
    share = min(max(percent or 0.0, 0.0), 100.0)
    full = int(BAR_WIDTH * share / 100)
    return f"[{'█' * full}{'·' * (BAR_WIDTH - full)}] {share:3.0f} %"


# --- slots and errors of the card ------------------------------------------------------------


def slots_table(status: Status, slots: Sequence[SlotInfo] = ()) -> StatusTable:
    """Return a table of the slots' counters and timings.

    Its rows are the slots that have a function; without ``slots``, those that have run.
    """
    table = StatusTable(
        ("slot", "name", "function", "on error", "calls", "errors", "skipped", "retries", "p50", "p99"),
        hide_empty=True,
    )
    infos = {info.slot: info for info in slots}
    counts = {one.slot: one for one in status.slots}
    ran = [slot for slot, one in counts.items() if one.calls or one.errors or one.skipped]
    known = [slot for slot, info in infos.items() if not info.identity]
    for slot in sorted(known if slots else ran):
        table.add(_slot_row(infos.get(slot), counts.get(slot) or SlotCounts(slot=slot)))
    return table


def _slot_row(info: SlotInfo | None, counts: SlotCounts) -> tuple[object, ...]:
    policy = info.policy if info is not None else None
    return (
        f"f{counts.slot}",
        info and info.name,
        info and info.function,
        policy and policy_text(policy),
        count_cell(counts.calls),
        count_cell(counts.errors),
        count_cell(counts.skipped or None),
        count_cell(counts.retries or None),
        Cell(duration(counts.p50_s), right=True),
        Cell(duration(counts.p99_s), right=True),
    )


def resolved_text(row: ErrorRow) -> str:
    """Return whether a failure is resolved; empty if its own policy dropped the message, so that it never was open."""
    return "yes" if row.resolved else "" if row.policy == "drop" else "no"


def errors_table(errors: Sequence[ErrorRow]) -> StatusTable:
    """Return a table of the newest failures."""
    title = f"the newest {CARD_ERRORS} of {len(errors)} failures" if len(errors) > CARD_ERRORS else "failures"
    table = StatusTable(("time", "slot", "error", "message", "resolved"), title)
    for row in errors[-CARD_ERRORS:]:
        error = class_and_text(row.exc_class, row.exc_value)
        table.add((timestamp(row.time), f"f{row.slot}", error, row.input, resolved_text(row)))
    return table


def policy_text(policy: Policy) -> str:
    """Return a policy as text.

    >>> policy_text(Policy(on_error="drop", retries=3, backoff_s=0.5, timeout_s=2.0))
    'retry 3 after 500 ms, then drop; 2 s at most'
    """
    wait = f" after {duration(policy.backoff_s)}" if policy.backoff_s else ""
    retry = f"retry {policy.retries}{wait}, then " if policy.retries else ""
    limit = f"; {duration(policy.timeout_s)} at most" if policy.timeout_s is not None else ""
    return f"{retry}{policy.on_error}{limit}"


def _unset(status: Status, slots: Sequence[SlotInfo]) -> str:
    if not slots:
        return "no slot has run yet"
    unset = [f"f{info.slot}" for info in slots if info.identity]
    if len(unset) == len(slots):
        if len(slots) == 1:
            return "the slot is unset: it passes its value on"
        return f"all {len(slots)} slots are unset: each passes its value on"
    return f"unset: {', '.join(unset)}" if unset else ""


# --- status ----------------------------------------------------------------------------------


def ingest_time(status: Status) -> str:
    """Return when the current message, or else the last one, arrived, to the second. Its id contains the time."""
    oid = status.current_oid or status.last_oid
    try:
        return timestamp(float(int(oid[:8], 16))).replace(".000Z", "Z") if oid and len(oid) == 24 else ""
    except ValueError:
        return ""


def _boxes(status: Status) -> list[tuple[str, str]]:
    """Return the four facts that the ancestors' status shows."""
    return [
        ("ingest time", ingest_time(status) or "–"),
        ("last id", status.last_oid or "–"),
        ("processed", f"{status.processed:,}"),
        ("queue depth", f"{status.queue_size:,} of {status.queue_capacity:,}"),
    ]


def _facts(status: Status) -> list[tuple[str, str]]:
    one_s, ten_s, minute = status.rate_per_s
    facts = [
        ("rate", f"{one_s:,.1f}/s now, {ten_s:,.1f}/s over 10 s, {minute:,.1f}/s over 1 min"),
        ("errored", f"{status.errored:,}"),
        ("dropped", f"{status.dropped:,}"),
        ("refused", f"{status.refused:,}"),
        ("retrying", f"{status.retrying:,}"),
        ("in flight", f"{status.in_flight:,}"),
    ]
    if status.on_error != Policy():
        facts.append(("on error", policy_text(status.on_error)))
    if status.handler != "BaseEventHandler":
        facts.append(("handler", status.handler))
    if status.hook_failures:
        facts.append(("hook failures", f"{status.hook_failures:,}"))
    return facts


def _head(status: Status) -> str:
    return f"● {printable(_state(status), 400)}  {printable(_identity(status))}"


def _head_html(status: Status) -> str:
    return (
        f"<div>{_dot(status.state)} <b>{html_text(_state(status), 400)}</b> "
        f'<span style="{_DIM}">{html_text(_identity(status))}</span></div>'
    )


def _state(status: Status) -> str:
    dead = "; its thread is dead" if status.state == "running" and not status.running else ""
    return f"{status.state}{dead}" + (f" ({status.reason})" if status.reason else "")


def _identity(status: Status) -> str:
    name = "machine" if status.name == DEFAULT_MACHINE else f"machine {status.name}"
    return f"{name}, revision {status.revision}, up {duration(status.uptime_s)}"


def _dot(state: str) -> str:
    return f'<span style="color:{STATE_COLOURS.get(state, QUIET_COLOUR)}">●</span>'


def _boxes_html(status: Status) -> str:
    boxes = "".join(
        f'<div style="{_BOX}"><div style="{_DIM}">{name}</div><div>{html_text(value)}</div></div>'
        for name, value in _boxes(status)
    )
    return f"<div>{boxes}</div>"


def _facts_html(status: Status) -> str:
    facts = " · ".join(f"{name} {html_text(value)}" for name, value in _facts(status))
    return f"<div>{facts}</div>"
