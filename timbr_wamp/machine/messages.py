"""A message as plain tuples: `Entry` while it waits or runs, `Finished` after its slots, `Row` once numbered.

Tuples, not objects: one object for each message halves the machine's speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from timbr_wamp.contract import Verdict

#: A message that waits or is under way: ``(oid, message, received_at, attempt)``.
Entry: TypeAlias = tuple[str, Any, float, int]


@dataclass(slots=True)
class Failure:
    """A slot without a value, or with one only after retries or by its policy's default."""

    slot: int
    #: How records name the slot: ``f3 (clean)``.
    task: str
    exc_class: str
    exc_value: str
    #: Empty for a skipped slot.
    exc_tb: str
    #: ``file:line`` where it was raised.
    where: str
    #: What became of the message: a verdict; ``retry``: a later try succeeded; ``skip``: the slot did not run.
    policy: str
    #: Tries that failed.
    tries: int = 1


@dataclass(slots=True)
class Notes:
    """The failures of a message in the slots, if there were any."""

    failures: list[Failure]
    verdict: Verdict = "record"
    #: Why the source's policy dropped the message before any slot ran; None: it did not.
    why: str | None = None
    #: The exception that the event handler wants raised in the user's call.
    raised: BaseException | None = None

    @property
    def errored(self) -> bool:
        """At least one slot raised or was skipped, and the message was not dropped."""
        return self.verdict != "drop" and any(failure.policy not in MENDED for failure in self.failures)


#: Policies of failures after which the slot had a value.
MENDED = frozenset({"retry", "default"})

#: Verdicts that keep the message: it returns to the head of the queue.
KEEPING = frozenset({"pause", "stop"})

#: The exception class that a skipped slot shows.
SKIPPED = "UpstreamError"

#: A message after its slots: ``(entry, revision, texts, notes, finished_at)``. ``revision`` is a
#: `timbr_wamp.machine.protocols.Plan`; ``texts`` are the JSON texts ``[in, f0, …]``; ``notes`` is empty
#: when no slot failed.
Finished: TypeAlias = tuple[Entry, Any, Sequence[bytes], Notes | tuple[()], float]

#: A numbered record: ``(seq, oid, text, meta)``, both texts in UTF-8; rows on the wire are made of it.
Row: TypeAlias = tuple[int, str, bytes, bytes]
