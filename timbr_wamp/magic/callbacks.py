"""`CallbackSubscription`: a function of the notebook that is called for each event of a topic.

Callbacks run in the client's callback thread, one after the other. Their output goes to the cell that
subscribed them; in ipykernel a thread otherwise prints into whichever cell ran last. An exception of a
callback is shown there and logged, once for the same error, and counted (``%wamp status``). The callback
stays subscribed, because the user may redefine the function under the same name.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from timbr_wamp.contract.keywords import keywords_taken
from timbr_wamp.errors import described

logger = logging.getLogger(__name__)

#: Arguments by position and by name.
CallArguments: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
#: Converts the arguments of an event to the arguments of each call; a batch gives several calls.
Decode: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], Iterable[CallArguments]]


class Unsubscribable(Protocol):
    """The client's subscription."""

    def unsubscribe(self) -> object:
        """End the subscription."""


class CallbackSubscription:
    """A subscription of a function, by its name, to a topic, with counts of calls and failures."""

    def __init__(self, shell: Any, topic: str, callback: str, find: Callable[[], Callable[..., object]]) -> None:
        self.topic, self.callback = topic, callback
        self.calls = self.failures = 0
        self.last_error: str | None = None
        self._shell, self._find = shell, find
        # the request of the subscribing cell; a terminal has none
        self._cell = shell.get_parent() if hasattr(shell, "set_thread_parent") else None
        self._decode: Decode = _unchanged
        self._subscription: Unsubscribable | None = None
        self._ended = False

    def __repr__(self) -> str:
        failed = f", {self.failures} failed, last with {self.last_error}" if self.failures else ""
        return f"{self.topic} → {self.callback}: {self.calls} calls{failed}"

    def begin(self, subscribe: Callable[[Callable[..., None]], Unsubscribable], decode: Decode | None = None) -> None:
        """Subscribe. ``decode=None`` means one call per event with the event's arguments."""
        self._decode = decode or _unchanged
        self._subscription = subscribe(self._on_event)

    def end(self) -> None:
        """Unsubscribe; queued events are dropped. Idempotent."""
        self._ended, ending, self._subscription = True, self._subscription, None
        if ending is not None:
            ending.unsubscribe()

    def _on_event(self, *args: Any, **kwargs: Any) -> None:
        with self._in_cell():
            try:
                for call_args, call_kwargs in self._decode(args, kwargs):
                    if self._ended:
                        return
                    self.calls += 1
                    function = self._find()
                    function(*call_args, **keywords_taken(function, len(call_args), call_kwargs))
            except Exception as error:  # user code may raise anything
                self._failed(error)

    @contextmanager
    def _in_cell(self) -> Iterator[None]:
        """Redirect this thread's output to the cell that subscribed."""
        if self._cell is None:
            yield
            return
        tokens = self._shell.set_thread_parent(self._cell)
        try:
            yield
        finally:
            self._shell.reset_thread_parent(tokens)

    def _failed(self, error: Exception) -> None:
        self.failures += 1
        text = described(error)
        if text != self.last_error:
            logger.exception("callback %s for %s failed", self.callback, self.topic)
            sys.stderr.write(f"callback {self.callback} for {self.topic} failed:\n{traceback.format_exc()}")
        self.last_error = text


def _unchanged(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[CallArguments]:
    return [(tuple(args), dict(kwargs))]
