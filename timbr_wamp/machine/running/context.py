"""What executors ask of the machine: event handler, concurrency, and whether another message may start."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from timbr_wamp.contract import Policy
from timbr_wamp.errors import InvalidArgument, is_users_interrupt
from timbr_wamp.machine.events.handlers import BaseEventHandler
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.machine.slots.table import Revision

CONCURRENCY_LIMIT = 10_000


class MachineContext:
    """A machine's `timbr_wamp.machine.protocols.RunContext`. Any thread.

    Args:
        current: returns the newest revision.
        may_start: tells whether another message may start.
        wake: makes the worker look at what is due.
    """

    def __init__(
        self,
        *,
        current: Callable[[], Revision],
        may_start: Callable[[], bool],
        wake: Callable[[], None],
        hooks: Hooks,
        clock: Clock,
        concurrency: int = 1,
    ) -> None:
        self.current, self.may_start, self.wake = current, may_start, wake
        self.hooks, self.clock = hooks, clock
        self.handler: BaseEventHandler = BaseEventHandler()
        self.concurrency = checked_concurrency(concurrency)
        #: Grows with each change of state, slots or hooks; see `timbr_wamp.machine.protocols.RunContext`.
        self.generation = 0
        #: When what is finished should be committed; the worker sets it.
        self.commit_due = float("inf")
        self._generations = count(1)  # no two threads make the same one
        hooks.on_change = self.changed

    def changed(self) -> None:
        """Note that state, slots or hooks have changed; after the change was made."""
        self.generation = next(self._generations)

    def policy(self, error: BaseException, slot: int, task: str, oid: str, tries: int, own: Policy) -> Policy:
        """Return the policy for a failure: the handler's, else the slot's own."""
        try:
            policy = self.handler.slot_raised(error, slot, task, oid, tries)
            if policy is not None and type(policy) is not Policy:
                raise TypeError(f"slot_raised returned a {type(policy).__name__}, neither a Policy nor None")
        except BaseException as failure:
            self._handler_failed(failure)
            policy = None
        return own if policy is None else policy

    def raises(self, kind: Any, error: BaseException) -> bool:
        """Tell whether the handler wants a failure raised in the user's call."""
        try:
            return bool(self.handler.raises(kind, error))
        except BaseException as failure:
            self._handler_failed(failure)
            return False

    def _handler_failed(self, failure: BaseException) -> None:
        """Report an error of the handler itself; the user's Ctrl-C is raised."""
        if is_users_interrupt(failure):
            raise failure
        self.hooks.failures.report(f"event handler {type(self.handler).__name__}", failure)


def checked_concurrency(concurrency: int) -> int:
    """Return ``concurrency``; raise InvalidArgument unless it is a whole number within the limit."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= CONCURRENCY_LIMIT:
        raise InvalidArgument("concurrency", f"{concurrency!r} is not a whole number from 1 to {CONCURRENCY_LIMIT}")
    return concurrency
