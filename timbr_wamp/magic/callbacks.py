"""Functions of the notebook that are called for each event of a topic.

They run in the client's callback thread, one after the other. Prints of a callback go to the cell
that subscribed it: in ipykernel a thread otherwise prints into whichever cell ran last. A callback
that fails is shown there and logged, once for the same error, and counted (``%wamp status``); it
stays subscribed, since a function redefined under the same name may well go right.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from timbr_wamp.errors import described

logger = logging.getLogger(__name__)

#: Arguments by position and by name.
Words: TypeAlias = tuple[tuple[Any, ...], dict[str, Any]]
#: An event's arguments → the arguments of each call; several when it is a batch.
Decode: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], Iterable[Words]]


class Ending(Protocol):
    """What ends the flow of events: the client's subscription."""

    def unsubscribe(self) -> object:
        """End it."""


class Watch:
    """One subscription: a topic, a function's name, and how it went so far."""

    def __init__(self, shell: Any, topic: str, callback: str, find: Callable[[], Callable[..., object]]) -> None:
        self.topic, self.callback = topic, callback
        self.calls = self.failures = 0
        self.last_error: str | None = None
        self._shell, self._find = shell, find
        # The request of the cell that subscribes; a terminal has none, nor a need for one.
        self._cell = shell.get_parent() if hasattr(shell, "set_thread_parent") else None
        self._decode: Decode = _as_it_is
        self._ending: Ending | None = None
        self._ended = False

    def __repr__(self) -> str:
        failed = f", {self.failures} failed, last with {self.last_error}" if self.failures else ""
        return f"{self.topic} → {self.callback}: {self.calls} calls{failed}"

    def begin(self, subscribe: Callable[[Callable[..., None]], Ending], decode: Decode | None = None) -> None:
        """Subscribe. ``decode`` makes the calls' arguments of an event's; None: one call with them."""
        self._decode = decode or _as_it_is
        self._ending = subscribe(self._on_event)

    def end(self) -> None:
        """Unsubscribe; events that wait are not called. Idempotent."""
        self._ended, ending, self._ending = True, self._ending, None
        if ending is not None:
            ending.unsubscribe()

    def _on_event(self, *args: Any, **kwargs: Any) -> None:
        with self._in_cell():
            try:
                for call_args, call_kwargs in self._decode(args, kwargs):
                    if self._ended:
                        return
                    self.calls += 1
                    self._find()(*call_args, **call_kwargs)
            except Exception as error:  # the notebook's code may do anything
                self._failed(error)

    @contextmanager
    def _in_cell(self) -> Iterator[None]:
        """Let this thread print into the cell that subscribed."""
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


def _as_it_is(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Words]:
    return [(tuple(args), dict(kwargs))]
