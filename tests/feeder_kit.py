"""A source with its queue and no machine: the test takes messages out of the queue.

Dropped messages are collected in a list, where a machine would record them.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from machine_kit import LIMIT_S, ManualClock, assert_counts_add_up
from wait_kit import wait_until

from timbr_wamp.contract import SourceOptions, SourceStatus
from timbr_wamp.machine.intake.feeder import Feeder
from timbr_wamp.machine.intake.message_queue import MessageQueue
from timbr_wamp.machine.messages import Entry

_numbers = itertools.count()


@contextlib.contextmanager
def rigs() -> Iterator[Callable[..., Rig]]:
    """Give a function that makes rigs; each is closed and its counts are checked at the end."""
    made: list[Rig] = []

    def make(*args: Any, **kwargs: Any) -> Rig:
        made.append(Rig(*args, **kwargs))
        return made[-1]

    yield make
    for one in made:
        one.close()


class Rig:
    """A feeder, its queue, and what both reported. `close` checks that the counts add up."""

    def __init__(self, source: object, *, bufsize: int = 4, total: int | None = None, **options: Any) -> None:
        self.clock = ManualClock()
        self.name = f"rig {next(_numbers)}"
        self.fulls = 0
        self.queue = MessageQueue(bufsize, on_full=self._full)
        self.processed: list[Any] = []
        self.dropped: list[Any] = []
        self.whys: set[str] = set()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.ends = 0
        self._oids: set[str] = set()
        self._changed = threading.Condition()
        numbers = itertools.count()
        self.feeder = Feeder(
            source, total, options=SourceOptions(**options), queue=self.queue, clock=self.clock,
            new_oids=lambda now, count: [f"{next(numbers):024x}" for _ in range(count)],
            on_end=self._end, on_drop=self._drop, on_event=self._event, name=self.name,
        )  # fmt: skip

    def _full(self) -> None:
        self.fulls += 1
        assert_counts_add_up(self.queue.snapshot())  # the lock is free

    def _end(self, feeder: Feeder) -> None:
        with self._changed:
            self.ends += 1
            self._changed.notify_all()

    def _drop(self, entries: Sequence[Entry], why: str) -> None:
        counts = self.queue.snapshot()
        assert_counts_add_up(counts)
        assert counts.in_flight >= len(entries)
        self.dropped += [entry[1] for entry in entries]
        self._note(entries)
        self.whys.add(why)
        self.queue.finish(dropped=len(entries))

    def _note(self, entries: Sequence[Entry]) -> None:
        oids = {entry[0] for entry in entries}
        assert len(oids) == len(entries)
        assert not oids & self._oids, "a message came twice"
        self._oids |= oids

    def _event(self, kind: str, /, **data: Any) -> None:
        with self._changed:
            self.events.append((kind, data))
            self._changed.notify_all()

    @property
    def kinds(self) -> list[str]:
        """Kinds of the events so far."""
        return [kind for kind, _ in self.events]

    @property
    def reading(self) -> bool:
        """A thread of the source lives, an abandoned one included."""
        return any(thread.name == f"timbr {self.name} source" for thread in threading.enumerate())

    @property
    def status(self) -> SourceStatus:
        """The source's status."""
        return self.feeder.status(0.0)

    def start(self) -> Rig:
        """Permit the source to read without limit."""
        self.feeder.permit()
        return self

    def pause(self) -> None:
        """Hold the source."""
        self.feeder.hold()
        self.queue.wake()

    def take(self, limit: int = 64, timeout_s: float = 0.0) -> list[Any]:
        """Process at most ``limit`` waiting messages; return them."""
        self.feeder.read_ready(limit)
        entries = self.queue.take(limit, timeout_s)
        assert_counts_add_up(self.queue.snapshot())
        self._note(entries)
        self.queue.finish(processed=len(entries))
        messages = [entry[1] for entry in entries]
        self.processed += messages
        return messages

    def take_until(self, true: Callable[[], object], limit: int = 3) -> None:
        """Process messages until ``true()`` holds."""
        deadline = time.monotonic() + LIMIT_S
        while not true():
            assert time.monotonic() < deadline, f"not within {LIMIT_S} s: {self.status}, {self.queue.snapshot()}"
            self.take(limit, 0.001)

    def run_to_end(self, limit: int = 3) -> list[Any]:
        """Process messages until the source has ended and nothing waits; return all that were processed."""
        self.take_until(lambda: self.feeder.ended and self.queue.idle(), limit)
        return self.processed

    def wait_for_end(self) -> None:
        """Wait until the source has ended, and take nothing out of the queue."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ends, LIMIT_S), "the source did not end"

    def wait_for_event(self, kind: str, number: int = 1) -> dict[str, Any]:
        """Return the data of the ``number``-th event of that kind."""

        def found() -> dict[str, Any] | None:
            return next(itertools.islice((data for k, data in self.events if k == kind), number - 1, None), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, LIMIT_S), f"no {kind!r}, but {self.kinds}"
        data = found()
        assert data is not None
        return data

    def wait_for_queue(self, size: int) -> None:
        """Wait until ``size`` messages are queued."""
        wait_until(lambda: self.queue.snapshot().queue_size == size, f"{size} messages wait")

    def close(self) -> None:
        """Close it, and check its counts: every message read was processed, dropped or waits."""
        self.feeder.close()
        self.take_until(lambda: not self.reading)
        counts = self.queue.snapshot()
        assert_counts_add_up(counts)
        assert counts.in_flight == 0
        assert (counts.processed, counts.dropped) == (len(self.processed), len(self.dropped))
        assert self.status.dropped == len(self.dropped)
