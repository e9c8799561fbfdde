"""Which slots' values each slot consumes, and so which slots may run at the same time.

A slot consumes a contiguous run of the newest values, so only a slot that takes none is independent
of all before it. Unset slots carry a value; they count as the slot that it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from timbr_wamp.machine.protocols import Plan, PlanStep


@dataclass(frozen=True, slots=True)
class StepInputs:
    """The values that one step gets, by number: 0 is the message, ``n + 1`` the value of step *n*."""

    #: Its arguments in order: values, then values of which it gets the JSON text.
    values: tuple[int, ...]
    texts: tuple[int, ...]

    @property
    def needs(self) -> frozenset[int]:
        """Values and texts together."""
        return frozenset((*self.values, *self.texts))


@dataclass(frozen=True, slots=True)
class Segment:
    """Steps that run one after the other; other segments may run at the same time."""

    #: Positions of the steps in the revision; empty only if the revision has no step.
    steps: tuple[int, ...]
    #: Segments whose values it consumes.
    after: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dependencies:
    """Which step of a revision consumes which values."""

    inputs: tuple[StepInputs, ...]
    segments: tuple[Segment, ...]
    #: For each of ``[in, f0, f1, …]`` the number of its value.
    layout: tuple[int, ...]


def dependencies_of(plan: Plan) -> Dependencies:
    """Return the dependencies of a revision's steps."""
    layout = [0] * (plan.lead + 1)
    inputs = []
    for position, step in enumerate(plan.steps):
        inputs.append(_inputs_of(step, layout))
        layout += [position + 1] * (step.carry + 1)
    return Dependencies(tuple(inputs), _segments(inputs), tuple(layout))


def _inputs_of(step: PlanStep, layout: list[int]) -> StepInputs:
    values = layout[::-1] if step.values < 0 else layout[: -step.values - 1 : -1]
    texts = layout[: -step.texts - 1 : -1] if step.texts else []
    return StepInputs(tuple(values), tuple(texts))


def _segments(inputs: list[StepInputs]) -> tuple[Segment, ...]:
    """Cut the steps where one takes no value, or values from before the cut."""
    segments: list[Segment] = []
    steps: list[int] = []
    after: set[int] = set()
    home: list[int] = []  # of each step, its segment
    for position, one in enumerate(inputs):
        needed = {home[need - 1] for need in one.needs if need}
        if position and needed != {len(segments)}:
            segments.append(Segment(tuple(steps), tuple(sorted(after))))
            steps, after = [], needed
        steps.append(position)
        home.append(len(segments))
    return (*segments, Segment(tuple(steps), tuple(sorted(after))))
