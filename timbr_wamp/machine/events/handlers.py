"""Event handlers: one object that decides what errors do to a machine, switchable while it runs.

A handler is asked before a slot's own policy applies. It only decides; the machine acts. Choose one by its
name, also over the wire, or give an object of your own class: see `BaseEventHandler`.
"""

from __future__ import annotations

import inspect
import logging
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, get_args

from timbr_wamp import plugins
from timbr_wamp.contract import ErrorRow, Policy, Verdict
from timbr_wamp.contract.policies import checked_json, checked_policy
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.events.error_report import report_of
from timbr_wamp.machine.events.failure_log import RaisedIn
from timbr_wamp.machine.events.hooks import NOT_AWAITED
from timbr_wamp.machine.forks import short_lock
from timbr_wamp.machine.slots.callables import is_async, method_of

logger = logging.getLogger(__name__)


class BaseEventHandler:
    """The default handler, which leaves every error to the policies. Subclass it to decide otherwise.

    A subclass may also have methods named like hook points (``on_drained(event)``, ``post_slot(…)``):
    these are hooks while it is the handler.
    """

    @property
    def name(self) -> str:
        """The name in `Status.handler`."""
        return type(self).__name__

    def slot_raised(self, error: BaseException, slot: int, task: str, oid: str, tries: int) -> Policy | None:
        """Return the policy for a slot's failure; None: the slot's own. Called in the slot's thread.

        ``tries`` is the number of failed tries of this attempt, from 1. Must not block: the message waits.
        """
        return None

    def raises(self, kind: RaisedIn, error: BaseException) -> bool:
        """Return whether the machine stops and raises ``error`` itself in its user's call."""
        return False


class RawEventDebugger(BaseEventHandler):
    """Raise everything: the first error of a slot, source, hook or sink stops the machine.

    The message is kept. `report` is the traceback with source lines and local variables; it is logged
    too, so do not use it on machines whose variables are secret.
    """

    def __init__(self) -> None:
        self._lock = short_lock()
        self._seen: BaseException | None = None
        #: The newest error's traceback with local variables; None before the first error.
        self.report: str | None = None

    def slot_raised(self, error: BaseException, slot: int, task: str, oid: str, tries: int) -> Policy | None:
        self._report(error, f"slot {slot} ({task}), message {oid}")
        return Policy(on_error="stop")

    def raises(self, kind: RaisedIn, error: BaseException) -> bool:
        self._report(error, kind)
        return True

    def _report(self, error: BaseException, where: str) -> None:
        with self._lock:
            if error is self._seen:  # reported by `slot_raised`, and again by `raises`
                return
            self._seen = error
            self.report = report_of(error, where)
            logger.error("%s: %s", self.name, self.report)


class DaskEventDebugger(RawEventDebugger):
    """Raise what slots raise, like `RawEventDebugger`; sources, hooks and sinks are left alone.

    The name comes from timbr-machine, where each message was a Dask graph, so errors of slots were
    raised by Dask.
    """

    def raises(self, kind: RaisedIn, error: BaseException) -> bool:
        return kind == "slot" and super().raises(kind, error)


class RetryHandler(BaseEventHandler):
    """Retry each failed slot ``retries`` times, after ``backoff_s`` seconds that double; ``then`` is the verdict."""

    def __init__(
        self, retries: int = 3, backoff_s: float = 0.1, then: Verdict = "record", default: object = None
    ) -> None:
        if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
            raise InvalidArgument("retries", f"a whole number, 0 or more, not {retries!r}")
        if not isinstance(backoff_s, (int, float)) or isinstance(backoff_s, bool) or not 0 <= backoff_s < float("inf"):
            raise InvalidArgument("backoff_s", f"seconds, 0 or more, not {backoff_s!r}")
        if then not in get_args(Verdict):
            raise InvalidArgument("then", f"one of {', '.join(get_args(Verdict))}, not {then!r}")
        backoff_max_s = max(60.0, float(backoff_s))
        self.policy = checked_policy(
            Policy(on_error=then, retries=retries, backoff_s=backoff_s, backoff_max_s=backoff_max_s, default=default)
        )

    def slot_raised(self, error: BaseException, slot: int, task: str, oid: str, tries: int) -> Policy | None:
        return self.policy


class DeadLetterHandler(BaseEventHandler):
    """Remove every failed message from the pipeline at once, and keep its `ErrorRow`.

    ``letters`` are the newest ``keep`` of them. ``take`` is called with each, in the machine's bus thread;
    what it raises is counted and logged like any hook's failure.
    """

    def __init__(self, take: Callable[[ErrorRow], object] | None = None, keep: int = 1000) -> None:
        if take is not None and (not callable(take) or is_async(take)):
            raise InvalidArgument("take", f"a plain function, not {type(take).__name__}")
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 0:
            raise InvalidArgument("keep", f"a whole number, 0 or more, not {keep!r}")
        self._take = take
        self.letters: deque[ErrorRow] = deque(maxlen=keep)

    def slot_raised(self, error: BaseException, slot: int, task: str, oid: str, tries: int) -> Policy | None:
        return Policy(on_error="dead_letter")

    def on_error(self, row: ErrorRow) -> object:
        """Keep a dead letter. A hook."""
        if row.policy == "dead_letter":
            self.letters.append(row)
            if self._take is not None:
                return self._take(row)
        return None


def make_handler(handler: object, options: Mapping[str, Any] | None = None) -> BaseEventHandler:
    """Return an event handler, from the name of a plugin, a class, or an object.

    ``options`` are the arguments of the class. None is the default handler. Over the wire only names are
    accepted, by the contract's type.

    Raises:
        UnknownPlugin: no handler of that name.
        InvalidArgument: options that the class does not take, or an object that is not a handler.
    """
    part = "BaseEventHandler" if handler is None else handler
    if isinstance(part, str):
        part = plugins.load(plugins.HANDLERS, part)
    if inspect.isclass(part) and not issubclass(part, BaseEventHandler):
        raise InvalidArgument("handler", f"{part.__name__} is no BaseEventHandler")
    if inspect.isclass(part) or inspect.isroutine(part):
        part = plugins.instantiate(part, options or {})
    elif options:
        raise InvalidArgument("options", f"{type(part).__name__} is an object already: options go to a name or class")
    if not isinstance(part, BaseEventHandler):
        raise InvalidArgument("handler", f"{type(part).__name__} is no BaseEventHandler")
    if not isinstance(checked_json(part.name, "handler.name"), str):
        raise InvalidArgument("handler.name", f"{part.name!r} is not a text")
    for name in ("slot_raised", "raises"):
        if is_async(method_of(part, name)):
            raise InvalidArgument("handler", f"{type(part).__name__}.{name}: {NOT_AWAITED}")
    return part
