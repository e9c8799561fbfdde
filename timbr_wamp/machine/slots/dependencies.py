"""Who feeds whom: which slots' values each slot consumes, and so what may run side by side.

A slot consumes a contiguous run of the newest values, so only a slot that takes none stands apart
from all before it. Identity slots carry a value; they count as the slot that it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from timbr_wamp.machine.protocols import Plan, PlanStep


@dataclass(frozen=True, slots=True)
class Feed:
    """What one step is given. Values are counted: 0 is the message, ``n + 1`` what step *n* gave."""

    #: Its arguments, in order: values, then values of which it gets the JSON text.
    values: tuple[int, ...]
    texts: tuple[int, ...]

    @property
    def needs(self) -> frozenset[int]:
        """All of them."""
        return frozenset((*self.values, *self.texts))


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps that run one after the other, whatever else runs beside them."""

    #: Positions of the steps; empty only where there is no step at all.
    steps: tuple[int, ...]
    #: Segments whose values it consumes.
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dependencies:
    """How the values walk through a revision."""

    feeds: tuple[Feed, ...]
    segments: tuple[Segment, ...]
    #: For ``[in, f0, f1, …]``, which value stands there.
    layout: tuple[int, ...]

    @property
    def ends(self) -> tuple[int, ...]:
        """Segments for which nothing waits."""
        awaited = {n for segment in self.segments for n in segment.after}
        return tuple(n for n in range(len(self.segments)) if n not in awaited)


def dependencies_of(plan: Plan) -> Dependencies:
    """Return the wiring of a revision's steps."""
    layout = [0] * (plan.lead + 1)
    feeds = []
    for position, step in enumerate(plan.steps):
        feeds.append(_feed(step, layout))
        layout += [position + 1] * (step.carry + 1)
    return Dependencies(tuple(feeds), _segments(feeds), tuple(layout))


def _feed(step: PlanStep, layout: list[int]) -> Feed:
    values = layout[::-1] if step.values < 0 else layout[: -step.values - 1 : -1]
    texts = layout[: -step.texts - 1 : -1] if step.texts else []
    return Feed(tuple(values), tuple(texts))


def _segments(feeds: list[Feed]) -> tuple[Segment, ...]:
    """Cut the steps where one takes no value, or values from before the cut."""
    segments: list[Segment] = []
    steps: list[int] = []
    after: set[int] = set()
    home: list[int] = []  # of each step, its segment
    for position, feed in enumerate(feeds):
        needed = {home[need - 1] for need in feed.needs if need}
        if position and needed != {len(segments)}:
            segments.append(Segment(tuple(steps), tuple(sorted(after))))
            steps, after = [], needed
        steps.append(position)
        home.append(len(segments))
    return (*segments, Segment(tuple(steps), tuple(sorted(after))))
