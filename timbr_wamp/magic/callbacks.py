"""Functions of the notebook that are called for each event of a topic.

The client's loop thread only queues; one daemon thread calls. Prints of a callback go to the cell
that subscribed it: in ipykernel a thread otherwise prints into whichever cell ran last. A callback
that fails is shown there and logged, once for the same error, and counted (``%wamp status``); it
stays subscribed, since a function redefined under the same name may well go right.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

logger = logging.getLogger(__name__)

#: Events that may wait for callbacks; later ones are dropped and counted.
QUEUE_LIMIT = 1000
#: `CallbackThread.close` waits so long for the callback under way.
CLOSE_TIMEOUT_S = 2.0


#: An event's arguments → the arguments of each call; several when it is a batch.
Decode: TypeAlias = Callable[[Sequence[Any]], Iterable[tuple[Any, ...]]]


def plain(args: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Call once, with the event's arguments as they are."""
    return [tuple(args)]


class Ending(Protocol):
    """What ends the flow of events: the client's subscription."""

    def unsubscribe(self) -> object:
        """End it."""


@dataclass(eq=False)
class Watch:
    """One subscription: a topic, a function's name, and how it went so far."""

    topic: str
    callback: str
    #: Finds the function; called for each event, so that redefining it takes effect.
    find: Callable[[], Callable[..., object]] = field(repr=False)
    #: The ``execute_request`` of the cell that subscribed; None outside ipykernel.
    parent: Any = field(default=None, repr=False)
    decode: Decode = field(default=plain, repr=False)
    calls: int = 0
    failures: int = 0
    #: Events lost because callbacks were slower than the topic.
    dropped: int = 0
    last_error: str | None = None
    ending: Ending | None = field(default=None, repr=False)
    ended: bool = False

    def __repr__(self) -> str:
        parts = [f"{self.topic} → {self.callback}: {self.calls} calls"]
        parts += [f"{self.failures} failed, last with {self.last_error}"] if self.failures else []
        parts += [f"{self.dropped} events dropped"] if self.dropped else []
        return ", ".join(parts)


Job: TypeAlias = tuple[Watch, Sequence[Any], dict[str, object]]


class CallbackThread:
    """One daemon thread that calls the callbacks of all watches, in the order of the events."""

    def __init__(self, shell: Any) -> None:
        self._shell = shell
        self._jobs: queue.Queue[Job | None] = queue.Queue(QUEUE_LIMIT)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, watch: Watch, args: Sequence[Any], kwargs: dict[str, object]) -> None:
        """Queue one event for a watch's function. Any thread; never blocks."""
        if watch.ended:
            return
        self._start()
        try:
            self._jobs.put_nowait((watch, args, kwargs))
        except queue.Full:
            watch.dropped += 1
            if watch.dropped == 1:
                logger.warning("callback %s is too slow for %s; events are dropped", watch.callback, watch.topic)

    def close(self) -> None:
        """End the thread: what waits is not called. Idempotent; waits for a call under way, bounded."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is None:
            return
        while thread.is_alive():
            try:
                self._jobs.put_nowait(None)
                break
            except queue.Full:
                self._drop_one()
        if thread is not threading.current_thread():
            thread.join(CLOSE_TIMEOUT_S)

    def _drop_one(self) -> None:
        try:
            self._jobs.get_nowait()
        except queue.Empty:
            return  # the thread took it just now, and there is room

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="timbr_wamp callbacks", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            watch, args, kwargs = job
            pinned = watch.parent is not None and hasattr(self._shell, "set_thread_parent")
            tokens = self._shell.set_thread_parent(watch.parent) if pinned else None
            try:
                self._call(watch, args, kwargs)
            finally:
                if pinned:
                    self._shell.reset_thread_parent(tokens)

    def _call(self, watch: Watch, args: Sequence[Any], kwargs: dict[str, object]) -> None:
        try:
            for arguments in watch.decode(args):
                if watch.ended:
                    return
                watch.calls += 1
                watch.find()(*arguments, **kwargs)
        except Exception as error:  # the notebook's code may do anything
            watch.failures += 1
            text = f"{type(error).__name__}: {error}"
            if watch.last_error != text:
                logger.exception("callback %s for %s failed", watch.callback, watch.topic)
                sys.stderr.write(f"callback {watch.callback} for {watch.topic} failed:\n{traceback.format_exc()}")
            watch.last_error = text
