"""`CounterSamples`: a machine's counters once a second, for those who begin to look later."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from timbr_wamp.contract import Metrics, Status

INTERVAL_S = 1.0
#: Samples that are kept: a quarter of an hour, in about 0.2 MB.
KEPT = 900

#: ``(time, processed, errored, dropped, queue_size)``
_Sample = tuple[float, int, int, int, int]


class CounterSamples:
    """Samples of a machine's counters, newest last. One thread notes them; any thread reads.

    Args:
        read: returns the machine's status.
    """

    def __init__(self, read: Callable[[], Status]) -> None:
        self._read = read
        self._samples: deque[_Sample] = deque(maxlen=KEPT)
        self._due_at = float("-inf")

    def note(self, now: float) -> float:
        """Take a sample if it is due; return the seconds until the next one. ``now`` is monotonic."""
        if now >= self._due_at:
            on_time = now - self._due_at < INTERVAL_S
            self._due_at = (self._due_at if on_time else now) + INTERVAL_S  # first: reading may fail
            self._samples.append(self._sample())
        return self._due_at - now

    def metrics(self, last_s: float) -> Metrics:
        """Return the samples of the last ``last_s`` seconds, and one of now."""
        samples = tuple(self._samples)  # whole, whatever the other thread appends meanwhile
        status = self._read()
        now = _sample_of(status)
        chosen = [*(one for one in samples if status.time - last_s <= one[0] <= status.time), now]
        time, processed, errored, dropped, queue_size = zip(*chosen, strict=True)
        return Metrics(
            run=status.run, interval_s=INTERVAL_S, time=list(time), processed=list(processed), errored=list(errored),
            dropped=list(dropped), queue_size=list(queue_size),
        )  # fmt: skip

    def _sample(self) -> _Sample:
        return _sample_of(self._read())


def _sample_of(status: Status) -> _Sample:
    return status.time, status.processed, status.errored, status.dropped, status.queue_size


__all__ = ["CounterSamples"]
