"""How trials, comparisons and the history of a message look; and `TrialReport`, from which a trial is committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from timbr_wamp.contract.displayable import Printer
from timbr_wamp.contract.provenance import Attempt, AttemptValue, Lookup
from timbr_wamp.contract.record import outcome_kind
from timbr_wamp.contract.structs import TrialRow
from timbr_wamp.contract.trials import RevisionDiff, TrialResult
from timbr_wamp.errors import InvalidArgument, class_and_text, counted
from timbr_wamp.faces.preview import never_raises, preview
from timbr_wamp.tables import Cell, StatusTable, collapsible, duration, html_text, timestamp

T = TypeVar("T")

#: Rows of a report that are shown: those that differ first.
SHOWN = 20
#: Longest message and value in a cell, and differences of one message, in characters and number.
CELL, CHANGES = 60, 6


class TrialReport(Generic[T]):
    """The result of a trial, with `commit`. It has the attributes of `TrialResult`, and its rows as items."""

    def __init__(self, result: TrialResult, commit: Callable[[str | None], T] | None = None) -> None:
        self.result = result
        self._commit = commit

    def commit(self, reason: str | None = None) -> T:
        """Put the function on trial in its slot, as one revision, unless the slots changed since the trial.

        Args:
            reason: why, kept with the revision.

        Raises:
            TableChanged: they changed; nothing was set.
            InvalidArgument: a whole table was tried: `rollback` makes an earlier one the newest.
        """
        if self._commit is None:
            raise InvalidArgument("commit", "a trial of a whole table has no function to set; rollback(n) restores one")
        return self._commit(reason)

    @property
    def summary(self) -> str:
        """The counts in words."""
        return summary(self.result)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "result" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.result, name)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self.result.__struct_fields__})

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.result.rows)

    def __bool__(self) -> bool:
        """A report is always true."""
        return True

    def __iter__(self) -> Iterator[TrialRow]:
        """Iterate over the rows."""
        return iter(self.result.rows)

    def __getitem__(self, number: int) -> TrialRow:
        """Return a row."""
        return self.result.rows[number]

    def __repr__(self) -> str:
        return f"<trial of {self.result.title}: {summary(self.result)}>"

    def __str__(self) -> str:
        return trial_text(self.result)

    def _repr_html_(self) -> str:
        return trial_html(self.result)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(str(self))


def summary(result: TrialResult) -> str:
    """Return a trial's counts in words.

    >>> summary(TrialResult(title="f1", base_revision=1, tried=3, same=2, mended=1))
    '3 messages: 2 same, 1 mended'
    """
    counts = {
        "same": result.same, "changed": result.changed, "new errors": result.new_errors, "mended": result.mended,
        "other errors": result.other_errors, "skipped": result.skipped,
    }  # fmt: skip
    words = ", ".join(f"{number:,} {name}" for name, number in counts.items() if number)
    return f"{counted(result.tried, 'message')}{': ' if words else ''}{words}"


def times(result: TrialResult) -> str:
    """Return the median times of a message, before and on trial."""
    after = f"{duration(result.after_p50_s)} a message on trial" if result.after_p50_s is not None else ""
    if result.before_p50_s is None or not after:
        return after
    return f"{duration(result.before_p50_s)} a message before, {after}"


@never_raises()
def trial_text(result: TrialResult) -> str:
    """Return a trial for a terminal."""
    parts = [f"{result.title}: {summary(result)}", times(result), *_notes(result), result.source_diff]
    table = _trial_table(result)
    return "\n".join([*filter(None, parts), *([str(table).rstrip()] if len(table) else [])])


@never_raises(html=True)
def trial_html(result: TrialResult) -> str:
    """Return a trial as HTML."""
    head = f"<div><b>{html_text(result.title)}</b>: {html_text(summary(result))}</div>"
    lines = "".join(f"<div>{html_text(line, 400)}</div>" for line in (times(result), *_notes(result)) if line)
    table = _trial_table(result)
    source = collapsible("source", result.source_diff) if result.source_diff else ""
    return head + lines + source + (table._repr_html_() if len(table) else "")


def _notes(result: TrialResult) -> list[str]:
    left = [f"{counted(result.left_out, 'row')} left out: too large together"] if result.left_out else []
    return [*result.notes, *left]


def _trial_table(result: TrialResult) -> StatusTable:
    """Return the rows that differ, and how many there are more."""
    rows = [row for row in result.rows if row.outcome not in ("same", "skipped")]
    table = StatusTable(("message id", "outcome", "message", "difference"), hide_empty=True)
    for row in rows[:SHOWN]:
        more = [f"… {len(row.changes) - CHANGES} more"] if len(row.changes) > CHANGES else []
        worse = row.outcome in ("new_error", "other_error")
        outcome = Cell((row.outcome or "").replace("_", " "), tone="bad" if worse else "")
        table.add((row.oid, outcome, _short(row.input), "; ".join([*row.changes[:CHANGES], *more])))
    if len(rows) > SHOWN:
        table.add(("", f"… {len(rows) - SHOWN:,} more", "", ""))
    return table


def _short(text: str) -> str:
    return text if len(text) <= CELL else f"{text[: CELL - 1]}…"


# --- comparisons -----------------------------------------------------------------------------


@never_raises()
def diff_text(diff: RevisionDiff) -> str:
    """Return two revisions side by side, for a terminal."""
    parts = [f"{_diff_title(diff)}", *diff.notes]
    for slot in diff.slots:
        parts.append(_slot_line(slot.slot, slot.change, slot.before, slot.after, slot.also))
        parts += [slot.source_diff] if slot.source_diff else []
    return "\n".join([*parts, *([trial_text(diff.trial)] if diff.trial is not None else [])])


@never_raises(html=True)
def diff_html(diff: RevisionDiff) -> str:
    """Return two revisions side by side as HTML."""
    parts = [f"<div><b>{html_text(_diff_title(diff))}</b></div>", *(f"<div>{html_text(n)}</div>" for n in diff.notes)]
    for slot in diff.slots:
        parts.append(f"<div>{html_text(_slot_line(slot.slot, slot.change, slot.before, slot.after, slot.also))}</div>")
        if slot.source_diff:
            parts.append(f"<pre>{html_text(slot.source_diff, 20_000, lines=True)}</pre>")
    return "".join([*parts, *([trial_html(diff.trial)] if diff.trial is not None else [])])


def _diff_title(diff: RevisionDiff) -> str:
    what = counted(len(diff.slots), "slot") + (" differs" if len(diff.slots) == 1 else " differ")
    return f"revisions {diff.a} and {diff.b}: {what if diff.slots else 'the same slots'}"


def _slot_line(slot: int, change: str, before: str | None, after: str | None, also: Sequence[str]) -> str:
    more = f" (also: {', '.join(also)})" if also else ""
    return f"f{slot} {change}: {before or 'unset'} → {after or 'unset'}{more}"


# --- one message -----------------------------------------------------------------------------


@never_raises()
def lookup_text(found: Lookup) -> str:
    """Return a message's attempts for a terminal."""
    return "\n".join([_lookup_title(found), *map(_attempt_text, found.attempts)])


@never_raises(html=True)
def lookup_html(found: Lookup) -> str:
    """Return a message's attempts as HTML; the newest one last."""
    tables = "".join(
        _attempt_table(one)._repr_html_() if one.slots else f"<div>{html_text(_attempt_title(one))}</div>"
        for one in found.attempts
    )
    return f"<div><b>{html_text(_lookup_title(found), 400)}</b></div>{tables}"


def _attempt_text(one: Attempt) -> str:
    return str(_attempt_table(one)).rstrip() if one.slots else _attempt_title(one)


def _lookup_title(found: Lookup) -> str:
    text = "(too large to be sent)" if found.input is None else preview(found.message, 200)
    return f"message {found.oid}: {found.state.replace('_', ' ')}; {text}"


def _attempt_title(one: Attempt) -> str:
    parts = [f"attempt {one.attempt}: {one.state.replace('_', ' ')}"]
    if one.seq:
        took = duration(max((one.finished_at or one.received_at) - one.received_at, 0.0))
        parts += [f"record {one.seq:,}", f"revision {one.revision}", timestamp(one.finished_at), f"took {took}"]
    else:
        parts.append(f"put {timestamp(one.received_at)}")
    return ", ".join(parts)


def _attempt_table(one: Attempt) -> StatusTable:
    table = StatusTable(("slot", "name", "outcome", "value", "policy"), _attempt_title(one), hide_empty=True)
    for value in one.slots:
        if value.kind != "carried":
            table.add((f"f{value.slot}", value.name, value.kind, _value_cell(value), value.policy))
    return table


def _value_cell(one: AttemptValue) -> object:
    if one.text is None:
        return f"({one.size_bytes:,} bytes)"
    value = json.loads(one.text)
    if outcome_kind(value) == "value":
        return preview(value, 300)
    detail = value["_exception"]
    text, trace = class_and_text(str(detail.get("exc_class")), str(detail.get("exc_value"))), detail.get("exc_tb")
    return Cell(text, collapsible(text, str(trace)) if trace else None, tone="bad" if one.kind == "error" else "")


__all__ = [
    "TrialReport",
    "diff_html",
    "diff_text",
    "lookup_html",
    "lookup_text",
    "summary",
    "trial_html",
    "trial_text",
]
