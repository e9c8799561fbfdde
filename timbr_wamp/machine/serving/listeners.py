"""Who listens to a machine's publishing socket, and how much may be under way to each of them.

ZeroMQ bounds what waits for a slow subscriber by a number of messages. A listener to batches acknowledges what no
longer takes memory at its side, so what is under way to it is bounded in bytes; what it misses meanwhile it fetches
from the kept records.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator

import zmq

from timbr_wamp.names import BATCHES, SAMPLES

#: Bytes under way to one listener: in this process, in the system's buffers, and at the listener.
BATCHES_WINDOW_BYTES, SAMPLES_WINDOW_BYTES = 16 * 1024 * 1024, 1024 * 1024
#: Parts of a window after which a listener is asked to acknowledge.
ASK_PARTS = 4


class Listener:
    """A subscription to batches, by one reader."""

    def __init__(self, topic: bytes) -> None:
        #: First frame of its batches. The last byte keeps topics apart of which one is the start of the other.
        self.topic = topic + b"\0"
        self._window_bytes = BATCHES_WINDOW_BYTES if topic.startswith(BATCHES) else SAMPLES_WINDOW_BYTES
        #: Bytes sent and acknowledged, since its first subscription.
        self.sent_bytes = self._acknowledged = 0
        self._asked = 0
        self._sent_since_asked = 0
        #: `sent_bytes` after each message that is not acknowledged.
        self._under_way: deque[int] = deque()
        self._waits = False

    def may_send(self, messages: int) -> bool:
        """Return whether there is room for a batch.

        When there was none, batches are left out until half of the window is free: one long hole is filled in more
        quickly than many short ones.

        Args:
            messages: most messages under way.
        """
        under_way = self._under_way
        while under_way and under_way[0] <= self._acknowledged:
            under_way.popleft()
        part = 2 if self._waits else 1
        room_bytes = self._window_bytes // part - (self.sent_bytes - self._acknowledged)
        self._waits = room_bytes <= 0 or len(under_way) >= max(messages // part, 1)
        return not self._waits

    def note_sent(self, size_bytes: int, messages: int) -> bool:
        """Count a batch that is sent now; return whether the listener is to acknowledge it."""
        self.sent_bytes += size_bytes
        self._under_way.append(self.sent_bytes)
        self._sent_since_asked += 1
        asked = (
            self.sent_bytes - self._asked >= self._window_bytes // ASK_PARTS
            or self._sent_since_asked >= messages // ASK_PARTS
        )
        if asked:
            self._asked, self._sent_since_asked = self.sent_bytes, 0
        return asked

    def acknowledge(self, sent_bytes: int | None) -> None:
        """Note that all up to ``sent_bytes`` arrived, or, with None, that nothing is under way."""
        self._acknowledged = self.sent_bytes if sent_bytes is None else min(
            max(sent_bytes, self._acknowledged), self.sent_bytes
        )  # fmt: skip


class Listeners:
    """The subscriptions of an XPUB socket in manual mode (https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html).

    By itself ZeroMQ would send batches to whoever subscribes to everything. So a subscription to the empty prefix is
    entered as one to each first byte but that of batches.
    """

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket
        socket.setsockopt(zmq.XPUB_MANUAL, 1)
        self._counts: Counter[bytes] = Counter()
        self._by_topic: dict[bytes, Listener] = {}
        #: There are subscriptions to the original form.
        self.plain = False
        self.complete: list[Listener] = []
        self.sampled: list[Listener] = []

    def __bool__(self) -> bool:
        return bool(self._counts)

    def read_changes(self) -> None:
        """Read changes of subscriptions, ``b"\\x01" + prefix`` or ``b"\\x00" + prefix``."""
        while int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            change = self._socket.recv(zmq.NOBLOCK)
            prefix, added = change[1:], change[:1] == b"\x01"
            for entered in _entered_as(prefix):
                self._socket.setsockopt(zmq.SUBSCRIBE if added else zmq.UNSUBSCRIBE, entered)
            self._counts[prefix] += 1 if added else -1
            if self._counts[prefix] <= 0:
                del self._counts[prefix]
            self._note(prefix, added=added)

    def _note(self, prefix: bytes, *, added: bool) -> None:
        if not prefix.startswith((BATCHES, SAMPLES)):
            self.plain = any(prefix[:1] != b"\0" for prefix in self._counts)
            return
        if prefix not in self._counts:
            self._by_topic.pop(prefix, None)
        elif added:  # what was under way to an earlier connection of it is lost
            self._by_topic.setdefault(prefix, Listener(prefix)).acknowledge(None)
        self.complete, self.sampled = (list(self._of_form(form)) for form in (BATCHES, SAMPLES))

    def _of_form(self, form: bytes) -> Iterator[Listener]:
        return (listener for topic, listener in self._by_topic.items() if topic.startswith(form))

    def acknowledge(self, topic: bytes, sent_bytes: int | None) -> None:
        """Note what a listener acknowledges. Any thread."""
        if (listener := self._by_topic.get(topic)) is not None:
            listener.acknowledge(sent_bytes)


def _entered_as(prefix: bytes) -> Iterable[bytes]:
    """Return what a subscription is entered as."""
    if not prefix:
        return (bytes((first,)) for first in range(1, 256))
    if prefix[0]:
        return (prefix,)
    return (prefix + b"\0",) if prefix.startswith((BATCHES, SAMPLES)) else ()
