"""`RunContext`: what decides how messages go, besides the slots themselves."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from timbr_wamp.contract import Policy
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.events.handlers import BaseEventHandler
from timbr_wamp.machine.events.hooks import Hooks
from timbr_wamp.machine.protocols import Clock
from timbr_wamp.machine.slots.table import Revision

logger = logging.getLogger(__name__)

CONCURRENCY_LIMIT = 10_000


class RunContext:
    """The newest slots, hooks and event handler, and whether to go on. Any thread.

    Args:
        current: gives the newest revision.
        go_on: tells whether further messages may begin.
        wake: makes the worker look around: something is due.
    """

    def __init__(
        self,
        *,
        current: Callable[[], Revision],
        go_on: Callable[[], bool],
        wake: Callable[[], None],
        hooks: Hooks,
        clock: Clock,
        concurrency: int = 1,
    ) -> None:
        self.current, self.go_on, self.wake = current, go_on, wake
        self.hooks, self.clock = hooks, clock
        self.handler: BaseEventHandler = BaseEventHandler()
        self.concurrency = checked_concurrency(concurrency)
        #: A message in backoff steps aside; False: whoever processes it waits.
        self.park = True

    def policy(self, error: BaseException, slot: int, task: str, oid: str, tries: int, own: Policy) -> Policy:
        """Return what is to become of a failure: the handler's word, else the slot's own policy."""
        try:
            policy = self.handler.slot_raised(error, slot, task, oid, tries)
        except Exception as failure:  # a handler is foreign code
            self.hooks.failed(f"event handler {self.handler.name}", failure)
            policy = None
        return own if policy is None else policy

    def raises(self, kind: Any, error: BaseException) -> bool:
        """Tell whether the handler wants a failure raised where the user is."""
        try:
            return bool(self.handler.raises(kind, error))
        except Exception as failure:  # a handler is foreign code
            self.hooks.failed(f"event handler {self.handler.name}", failure)
            return False


def checked_concurrency(concurrency: int) -> int:
    """Return ``concurrency``; raise InvalidArgument unless it is a whole number within the limit."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or not 1 <= concurrency <= CONCURRENCY_LIMIT:
        raise InvalidArgument("concurrency", f"{concurrency!r} is not a whole number from 1 to {CONCURRENCY_LIMIT}")
    return concurrency
