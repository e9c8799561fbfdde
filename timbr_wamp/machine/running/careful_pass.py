"""One message's careful pass through the slots: outcomes, policies, retries, hooks.

`CarefulPass` decides and calls nothing itself: `steps` is a generator that yields requests (`Call`,
`Sleep`) and is sent ``(value, error)``. So every executor follows the same rules, and a message in
backoff is a suspended generator. The usual pass, when nothing happens, is
`timbr_wamp.machine.running.compiled_pass`; it hands over here when a slot raises.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from timbr_wamp.contract import Policy
from timbr_wamp.contract.policies import backoff_s
from timbr_wamp.errors import UpstreamError, is_users_interrupt
from timbr_wamp.machine.messages import SKIPPED, Failure, Notes
from timbr_wamp.machine.raw import Raw, opened
from timbr_wamp.machine.running.cancellation import current
from timbr_wamp.machine.slots.arguments import given, reads_message
from timbr_wamp.machine.slots.callables import is_unawaited
from timbr_wamp.machine.tracebacks import error_text, original_of
from timbr_wamp.values import text_of

if TYPE_CHECKING:
    from timbr_wamp.machine.protocols import Plan, PlanStep, RunContext


#: Verdicts after which no later slot runs.
FINAL = frozenset({"drop", "dead_letter", "pause", "stop"})


#: ``(value, None)`` or ``(None, error)``.
CallOutcome: TypeAlias = tuple[Any, BaseException | None]
#: An outcome computed earlier, with the value's JSON text from right after its slot ran.
KnownOutcome: TypeAlias = tuple[Any, BaseException | None, bytes]
#: Values ``[in, f0, …]``, their JSON texts, and the failures.
PassResult: TypeAlias = "tuple[list[Any], list[bytes], Notes | tuple[()]]"
PassSteps: TypeAlias = "Generator[Call | Sleep, CallOutcome, PassResult]"


@dataclass(frozen=True, slots=True)
class Call:
    """Call the step's function with these arguments."""

    step: PlanStep
    arguments: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Sleep:
    """Continue after ``seconds``."""

    seconds: float


class Unawaited(Exception):
    """In place of an error: the call returned a coroutine that must be awaited. Never leaves the machine."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value


def awaiting(step: PlanStep) -> PlanStep:
    """Return a copy of a step that awaits its one argument, the result of the step's call."""
    changed: Any = replace(cast("Any", step), function=_await, is_async=True)
    return cast("PlanStep", changed)


async def _await(value: Any) -> Any:
    return await value


#: Sent after a `Sleep`.
SLEPT: CallOutcome = (None, None)


class CarefulPass:
    """One message's pass through the slots of a revision.

    Args:
        text: the message's JSON text, if it was made already.
        known: outcomes computed earlier, by the step's position.
        values, texts, broken: ``[in, f0, …]`` of a kept record, for a trial on it.
    """

    def __init__(
        self,
        revision: Plan,
        message: object,
        context: RunContext,
        oid: str,
        *,
        text: bytes | None = None,
        known: Mapping[int, KnownOutcome] | None = None,
        values: list[Any] | None = None,
        texts: list[bytes] | None = None,
        broken: list[str | None] | None = None,
        timed: bool = False,
    ) -> None:
        lead = revision.lead + 1
        self._revision, self._context, self._oid = revision, context, oid
        self._known = known or {}
        self._timed = timed
        #: Why the message has no value: a raw text that is not JSON.
        self._unread: BaseException | None = None
        if values is None and type(message) is Raw:
            message, text, self._unread = opened(message)
        self._values = [message] * lead if values is None else values
        self._texts = [text_of(message) if text is None else text] * lead if texts is None else texts
        #: For each value the slot of whose failure it is the description; None: a real value.
        self._broken: list[str | None] = [None] * len(self._values) if broken is None else broken
        self._notes: Notes | tuple[()] = ()
        #: The slot whose policy ended the message's pass.
        self._final: str | None = None

    def steps(self) -> PassSteps:
        """Run the steps; return ``(values, texts, notes)``."""
        for position, step in enumerate(self._revision.steps):
            because = self._final or self._missing(step)
            if because is not None:
                self._skip(step, because)
                continue
            known = self._known.get(position)
            if known is not None and known[1] is None:
                self._append(step, known[0], known[2], None)
                continue
            if (
                self._unread is not None
                and known is None
                and reads_message(step, len(self._values), self._revision.lead)
            ):
                known = (None, self._unread, b"")
            arguments = given(step, self._values, self._texts)
            outcome = self._call(step, arguments) if known is None else self._known_outcome(step, known)
            value, error = yield from outcome
            if error is not None:
                yield from self._handle_failure(step, arguments, error)
            else:
                self._append(step, value, text_of(value), None)
        return self._values, self._texts, self._notes

    def _missing(self, step: PlanStep) -> str | None:
        """Return the slot whose failure leaves the step without one of its values."""
        broken = self._broken
        consumed = broken if step.values < 0 else broken[len(broken) - step.values :]
        return next((task for task in consumed if task is not None), None)

    def _known_outcome(self, step: PlanStep, known: KnownOutcome) -> Generator[Call | Sleep, CallOutcome, CallOutcome]:
        """Return a known failure; the executor has called hooks for values only."""
        outcome = known[:2]
        if isinstance(outcome[1], Unawaited):
            outcome = yield from self._awaited(step, outcome[1].value)
        self._call_post_slot(step, outcome)
        return outcome

    def _call_post_slot(self, step: PlanStep, outcome: CallOutcome) -> None:
        value, error = outcome
        error = None if error is None else original_of(error)
        self._context.hooks.call("post_slot", self._oid, step.slot.number, value, error)

    def _call(self, step: PlanStep, arguments: Sequence[Any]) -> Generator[Call | Sleep, CallOutcome, CallOutcome]:
        hooks, number = self._context.hooks, step.slot.number
        hooks.call("pre_slot", self._oid, number, list(arguments))  # theirs to change
        before = perf_counter()
        outcome = yield Call(step, arguments)
        if outcome[1] is None and is_unawaited(outcome[0]):
            outcome = yield from self._awaited(step, outcome[0])
        if self._timed and outcome[1] is None:
            step.slot.tally.timings.append(perf_counter() - before)
        self._call_post_slot(step, outcome)
        return outcome

    def _awaited(self, step: PlanStep, value: Any) -> Generator[Call | Sleep, CallOutcome, CallOutcome]:
        """Await the result of a function that is not ``async def``: ``lambda x: acoro(x)``."""
        outcome = yield Call(awaiting(step), (value,))
        if outcome[1] is not None and isinstance(value, CoroutineType):
            with contextlib.suppress(Exception):  # it was started and ignores this
                value.close()  # else Python warns that it was never awaited
        return outcome

    # --- failures ---

    def _handle_failure(
        self, step: PlanStep, arguments: Sequence[Any], error: BaseException
    ) -> Generator[Call | Sleep, CallOutcome, None]:
        """Retry as the policy says, then apply its verdict."""
        tries, first = 1, error
        while True:
            policy = self._policy(step, error, tries)
            if tries > policy.retries:
                self._fail(step, error, policy, tries)
                return
            wait_s = backoff_s(policy, tries)
            if wait_s > 0:
                yield Sleep(wait_s)
            value, failure = yield from self._call(step, arguments)
            if failure is None:
                self._note(step, first, "retry", tries)
                self._append(step, value, text_of(value), None)
                return
            error, tries = failure, tries + 1

    def _policy(self, step: PlanStep, error: BaseException, tries: int) -> Policy:
        slot = step.slot
        return self._context.policy(original_of(error), slot.number, slot.task, self._oid, tries, step.policy)

    def _fail(self, step: PlanStep, error: BaseException, policy: Policy, tries: int) -> None:
        verdict = policy.on_error
        failure = self._note(step, error, verdict, tries)
        if verdict == "default":
            value = copy.deepcopy(policy.default) if isinstance(policy.default, (list, dict, set)) else policy.default
            self._append(step, value, text_of(value), None)
            return
        notes = self._noted()
        if verdict in FINAL:
            notes.verdict, self._final = verdict, step.slot.task
        original = original_of(error)
        if self._context.raises("slot", original):
            notes.raised = original
        self._append_exception(step, failure.exc_class, failure.exc_value, failure.exc_tb, step.slot.task)

    def _note(self, step: PlanStep, error: BaseException, policy: str, tries: int) -> Failure:
        failure = Failure(step.slot.number, step.slot.task, *error_text(error), policy, tries)
        self._noted().failures.append(failure)
        return failure

    def _noted(self) -> Notes:
        if not isinstance(self._notes, Notes):
            self._notes = Notes([])
        return self._notes

    def _skip(self, step: PlanStep, because: str) -> None:
        slot = step.slot
        text = str(UpstreamError(slot.task, because))
        self._noted().failures.append(Failure(slot.number, slot.task, SKIPPED, text, "", "", "skip"))
        self._append_exception(step, SKIPPED, text, None, because)

    def _append_exception(self, step: PlanStep, name: str, text: str, trace: str | None, because: str) -> None:
        value = {"_exception": {"exc_class": name, "exc_value": text, "exc_tb": trace, "task": step.slot.task}}
        self._append(step, value, text_of(value), because)

    def _append(self, step: PlanStep, value: object, text: bytes, because: str | None) -> None:
        count = step.carry + 1
        self._values.extend([value] * count)
        self._texts.extend([text] * count)
        self._broken.extend([because] * count)


# --- in one thread ---


def run_steps(steps: PassSteps, invoke: Callable[[PlanStep, Sequence[Any]], Any]) -> PassResult:
    """Run a careful pass to its end in this thread; retries are waited for.

    Raises:
        KeyboardInterrupt: the user's Ctrl-C.
        CallCancelled: this thread performs a call that was cancelled.
    """
    outcome: CallOutcome | None = None
    cancellation = current()
    try:
        while True:
            cancellation.check()
            request = next(steps) if outcome is None else steps.send(outcome)
            if isinstance(request, Sleep):
                cancellation.sleep(request.seconds)
                outcome = SLEPT
            else:
                outcome = isolated(invoke, request)
    except StopIteration as end:
        result: PassResult = end.value
        return result


def isolated(invoke: Callable[[PlanStep, Sequence[Any]], Any], call: Call) -> CallOutcome:
    """Make a call; whatever the slot raises is its outcome.

    Raises:
        KeyboardInterrupt: the user's Ctrl-C.
    """
    try:
        return invoke(call.step, call.arguments), None
    except BaseException as error:
        if is_users_interrupt(error):
            raise
        return None, error
