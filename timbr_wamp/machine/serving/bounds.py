"""Lookups, trials and comparisons cut to what one payload takes."""

from __future__ import annotations

from collections.abc import Callable

from timbr_wamp.contract import Attempt, AttemptValue, Lookup, RevisionDiff, TrialResult, TrialRow

#: Characters of a difference of source texts that are sent.
DIFF_CHARACTERS = 20_000


def bounded_lookup(found: Lookup, limit_bytes: int) -> Lookup:
    """Return a message's attempts within ``limit_bytes``: the largest texts are left out first, then old attempts."""
    texts: list[tuple[int, Callable[[], None]]] = []
    for attempt in found.attempts:
        texts += [(one.size_bytes, _leaves_out(one)) for one in attempt.slots]
    if found.input is not None:
        texts.append((len(found.input.encode()), lambda: setattr(found, "input", None)))
    size = sum(size for size, _ in texts)
    for one, leave_out in sorted(texts, key=lambda pair: -pair[0]):
        if size <= limit_bytes:
            break
        leave_out()
        size -= one
    while len(found.attempts) > 1 and sum(map(_frame_bytes, found.attempts)) > limit_bytes:
        del found.attempts[0]
    return found


def _leaves_out(one: AttemptValue) -> Callable[[], None]:
    return lambda: setattr(one, "text", None)


def _frame_bytes(attempt: Attempt) -> int:
    """Return about how much an attempt needs beside its texts."""
    return 200 + 150 * len(attempt.slots)


def bounded_trial(result: TrialResult, limit_bytes: int) -> TrialResult:
    """Return a trial within ``limit_bytes``: rows that are the same are left out first, then the last ones."""
    result.source_diff = result.source_diff[:DIFF_CHARACTERS]
    size = sum(map(_row_bytes, result.rows)) + 4 * len(result.source_diff)
    gone: set[int] = set()
    order = sorted(range(len(result.rows)), key=lambda n: (result.rows[n].outcome != "same", -n))
    for number in order:
        if size <= limit_bytes:
            break
        gone.add(number)
        size -= _row_bytes(result.rows[number])
    kept = [row for number, row in enumerate(result.rows) if number not in gone]
    result.left_out += len(result.rows) - len(kept)
    result.rows = kept
    return result


def _row_bytes(row: TrialRow) -> int:
    texts = (row.text, row.input, row.before or "", *row.changes)
    return 200 + sum(len(text) if text.isascii() else 4 * len(text) for text in texts)


def bounded_diff(diff: RevisionDiff, limit_bytes: int) -> RevisionDiff:
    """Return a comparison within ``limit_bytes``: each difference of sources is cut."""
    each = min(DIFF_CHARACTERS, limit_bytes // 4 // max(len(diff.slots), 1))
    for slot in diff.slots:
        slot.source_diff = slot.source_diff[:each]
    return diff
