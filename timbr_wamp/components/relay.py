"""What a bridge decides: which topics are wanted, what of a stream goes out, how a message is made to fit.

Sans-I/O: no sockets, no tasks, no clock. `components.bridge` moves the bytes. Limits are those of the
contract's topics (DESIGN.md, section 6).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES, IopubMessage, Status

T = TypeVar("T")

#: Single events on a machine's own topic; above, one in n goes out.
EVENTS_PER_S = 200.0
ERRORS_PER_S = 10.0
#: A status goes out at most so often, and at least so often while somebody listens.
STATUS_SHORTEST_S = 0.25
STATUS_LONGEST_S = 2.0
#: Text of one stream message; print() of a large text is cut into such parts.
PART_CHARACTERS = PAYLOAD_LIMIT_BYTES // 8
#: A message beside its content: headers, keys, brackets.
_ENVELOPE_BYTES = 1024


class SubscribedTopics:
    """Which of our topics somebody is subscribed to, at any rate in the router's eyes.

    Counted, not followed: a topic with a retained event has a subscription without subscribers that is
    neither created nor deleted with them, and after an unclean leave the meta events name no wamp
    session. So an event only says which topics to count again.
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}

    def follow(self, topics: Iterable[str]) -> None:
        """Begin with topics; they count as not wanted until `counted`."""
        for topic in topics:
            self._counts.setdefault(topic, {})

    def forget(self, topics: Iterable[str]) -> None:
        """Let go of topics."""
        for topic in topics:
            self._counts.pop(topic, None)

    @property
    def topics(self) -> list[str]:
        """All topics that are followed."""
        return list(self._counts)

    def created(self, uri: str, match: str) -> list[str]:
        """Return the topics to count again since a subscription to ``uri`` was created."""
        return [topic for topic in self._counts if _matches(topic, uri, match)]

    def changed(self, subscription_id: int) -> list[str]:
        """Return the topics to count again since somebody joined or left a subscription.

        A retained event makes the router keep a subscription, and no meta event tells of that one: an
        unknown number may be that of any topic of which no subscription is known.
        """
        known = [topic for topic, counts in self._counts.items() if subscription_id in counts]
        return known or [topic for topic, counts in self._counts.items() if not counts]

    def counted(self, topic: str, counts: Mapping[int, int]) -> bool:
        """Take the subscriptions of a topic with their subscribers; tell whether `wanted` changed."""
        if topic not in self._counts:
            return False
        before = self.wanted(topic)
        self._counts[topic] = dict(counts)
        return before != self.wanted(topic)

    def wanted(self, topic: str) -> bool:
        """Tell whether somebody is subscribed to the topic."""
        return any(self._counts.get(topic, {}).values())


def _matches(topic: str, uri: str, match: str) -> bool:
    if match == "prefix":
        return topic.startswith(uri)
    if match == "wildcard":
        mine, theirs = topic.split("."), uri.split(".")
        return len(mine) == len(theirs) and all(part in ("", own) for part, own in zip(theirs, mine, strict=True))
    return topic == uri


class StatusPacer:
    """Decide when a machine's status goes out."""

    def __init__(self) -> None:
        self._last: Status | None = None
        self._at = -math.inf

    def due(self, status: Status, now: float, *, listened: bool) -> bool:
        """Tell whether this status goes out now, and take it as sent if so.

        What changes the machine's nature (state, run, revision, source) goes out also when nobody
        listens: the router keeps it for who comes next.
        """
        since_s = now - self._at
        if since_s < STATUS_SHORTEST_S:
            return False
        last = self._last
        fresh = last is None or _nature(last) != _nature(status)
        if listened and not fresh:
            fresh = since_s >= STATUS_LONGEST_S or last is None or _figures(last) != _figures(status)
        if fresh:
            self._last, self._at = status, now
        return fresh


def _nature(status: Status) -> tuple[object, ...]:
    return status.run, status.state, status.reason, status.running, status.revision, status.source.state


def _figures(status: Status) -> tuple[object, ...]:
    return status.put, status.last_seq, status.errored, status.dropped, status.refused, status.queue_size


class Sampler:
    """Thin out a stream to about so many a second: one in n, with n from the rate that there is."""

    #: n is chosen anew this often.
    WINDOW_S = 0.25

    def __init__(self, per_s: float = EVENTS_PER_S) -> None:
        self._allowed = max(1.0, per_s * self.WINDOW_S)
        #: One in so many goes out.
        self.n = 1
        self._window_end = -math.inf
        self._seen = 0
        self._phase = 0

    def take(self, items: Sequence[T], now: float) -> Sequence[T]:
        """Return which of the items go out."""
        if now >= self._window_end:
            quiet = now >= self._window_end + self.WINDOW_S
            self.n = 1 if quiet else max(1, math.ceil(self._seen / self._allowed))
            self._window_end, self._seen = now + self.WINDOW_S, 0
        self._seen += len(items)
        self.n = max(self.n, math.ceil(self._seen / self._allowed))  # a burst, within the window
        first = (self.n - 1 - self._phase) % self.n
        self._phase = (self._phase + len(items)) % self.n
        return items[first :: self.n]


class Cap:
    """Allow so many a second, with as many at once after a quiet second."""

    def __init__(self, per_s: float = ERRORS_PER_S) -> None:
        self._per_s = self._left = per_s
        self._at = -math.inf

    def allow(self, now: float) -> bool:
        """Tell whether one more may go out now, and count it if so."""
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def fitting(message: IopubMessage) -> list[IopubMessage]:
    """Return the message as one or several that each fit a payload.

    A large text of a stream is cut; any other large message keeps its type and gets a placeholder that
    tells its size in place of its content.
    """
    size = _size(message)
    if size + _ENVELOPE_BYTES <= PAYLOAD_LIMIT_BYTES:
        return [message]
    if message.msg_type == "stream":
        text = message.content["text"]
        parts = (text[start : start + PART_CHARACTERS] for start in range(0, len(text), PART_CHARACTERS))
        return [msgspec.structs.replace(message, content={**message.content, "text": part}) for part in parts]
    note = f"<{message.msg_type} of {size:,} bytes, over the wire's limit of {PAYLOAD_LIMIT_BYTES:,}>"
    content: dict[str, Any] = {"data": {"text/plain": note}, "metadata": {}, "transient": {}}
    if message.msg_type == "execute_result":
        content["execution_count"] = message.content.get("execution_count")
    elif message.msg_type == "error":
        content = {"ename": message.content.get("ename", "")[:200], "evalue": note, "traceback": [note]}
    elif message.msg_type not in ("display_data", "update_display_data"):
        content = {"too_large": size}
    return [msgspec.structs.replace(message, content=content, metadata={}, buffers=[])]


def _size(message: IopubMessage) -> int:
    """Return about how many bytes a message takes on the wire."""
    return len(msgspec.msgpack.encode((message.content, message.metadata))) + sum(map(len, message.buffers))
