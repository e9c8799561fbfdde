"""One message's slots in a pool of threads: independent slots run side by side.

Steps that consume each other's values form a segment (`timbr_wamp.machine.slots.dependencies`) and run one
after the other in one thread. A segment is submitted once those whose values it consumes have ended.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

from timbr_wamp.machine.protocols import PlanStep, RunContext
from timbr_wamp.machine.raw import opened
from timbr_wamp.machine.running.careful_pass import CarefulPass, KnownOutcome, PassSteps, Unawaited
from timbr_wamp.machine.running.executors.window import UnderWay
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.machine.slots.dependencies import Dependencies
from timbr_wamp.values import text_of


class SegmentRun:
    """The slots of one message. `start` and `result`: the executor's thread; the rest runs in the pool.

    Args:
        invoke: calls a step's function.
        submit: runs a function in a thread of the pool.
        ended: called in the pool once all segments have ended, with None or an error that is not a slot's.
    """

    def __init__(
        self,
        one: UnderWay,
        context: RunContext,
        dependencies: Dependencies,
        *,
        timed: bool,
        invoke: Callable[[PlanStep, Sequence[Any]], Any],
        submit: Callable[[Callable[[int], None], int], object],
        ended: Callable[[BaseException | None], None],
    ) -> None:
        self._one, self._context, self._dependencies, self._timed = one, context, dependencies, timed
        self._invoke, self._submit, self._ended = invoke, submit, ended
        self._lock = threading.RLock()
        #: The message, then each step's value or error with its text; None: it did not run.
        self._outcomes: list[KnownOutcome | None] = [None] * (len(dependencies.inputs) + 1)
        #: For each segment, how many segments it still waits for.
        self._awaited = [len(segment.after) for segment in dependencies.segments]
        self._left = len(dependencies.segments)

    def start(self) -> None:
        """Submit the segments that wait for no other."""
        message = self._one.entry[1]
        value, text, error = opened(message)
        self._outcomes[0] = (value, error, text)
        for number in [n for n, awaited in enumerate(self._awaited) if not awaited]:
            self._submit(self._run, number)

    def result(self) -> tuple[list[Any], list[bytes]] | PassSteps:
        """Return values and texts if every slot has a value, else a careful pass that continues from there."""
        outcomes = [outcome for outcome in self._outcomes if outcome is not None and outcome[1] is None]
        if len(outcomes) == len(self._outcomes):
            layout = self._dependencies.layout
            return [outcomes[n][0] for n in layout], [outcomes[n][2] for n in layout]
        entry, first = self._one.entry, self._outcomes[0]
        known = {n - 1: outcome for n, outcome in enumerate(self._outcomes) if n and outcome is not None}
        text = None if first is None else first[2]
        return CarefulPass(self._one.revision, entry[1], self._context, entry[0], text=text, known=known).steps()

    def _run(self, number: int) -> None:
        try:
            for position in self._dependencies.segments[number].steps:
                if self._one.abandoned:
                    return
                self._step(position)
            with self._lock:
                self._left -= 1
                last, next_ones = not self._left, []
                for n, segment in enumerate(self._dependencies.segments):
                    if number in segment.after:
                        self._awaited[n] -= 1
                        if not self._awaited[n]:
                            next_ones.append(n)
            for n in next_ones:
                self._submit(self._run, n)
        except BaseException as error:  # not a slot's: it must be reported
            self._ended(error)
        else:
            if last:
                self._ended(None)

    def _step(self, position: int) -> None:
        """Call one step, unless a value that it consumes is missing."""
        inputs, step = self._dependencies.inputs[position], self._one.revision.steps[position]
        arguments: list[Any] = []
        for number, need in enumerate((*inputs.values, *inputs.texts)):
            outcome = self._outcomes[need]
            if outcome is None or outcome[1] is not None:
                return
            arguments.append(outcome[0] if number < len(inputs.values) else outcome[2].decode())
        hooks, oid, slot = self._context.hooks, self._one.entry[0], step.slot.number
        hooks.call("pre_slot", oid, slot, list(arguments))  # theirs to change
        before = perf_counter()
        try:
            value = self._invoke(step, arguments)
        except BaseException as error:  # whatever a slot raises is the message's outcome
            self._outcomes[position + 1] = (None, error, b"")
            return
        if is_unawaited(value):
            self._outcomes[position + 1] = (None, Unawaited(value), b"")
            return
        if self._timed:
            step.slot.tally.timings.append(perf_counter() - before)
        self._outcomes[position + 1] = (value, None, text_of(value))
        hooks.call("post_slot", oid, slot, value, None)
