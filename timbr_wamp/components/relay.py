"""The bridge's decisions: which topics have subscribers, what is published and how often, how messages are split.

Sans-I/O: no sockets, no tasks, no clock. The rates are those of the contract's topics.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES, IopubMessage, Status

ERRORS_PER_S = 10.0
#: Shortest interval between statuses, and longest one while the topic has subscribers.
STATUS_MIN_INTERVAL_S = 0.25
STATUS_MAX_INTERVAL_S = 2.0
#: Longest text of a stream message; larger output of print() is split.
PART_CHARACTERS = PAYLOAD_LIMIT_BYTES // 8
#: Size of a message without its content.
_ENVELOPE_BYTES = 1024


class SubscribedTopics:
    """The topics of this bridge that have subscribers, as the router counts them.

    The router's meta events are used only to find the topics whose subscribers to count again, for two
    reasons: a topic with a retained event has a subscription that exists without subscribers, and after
    an unclean disconnection the events contain no wamp session.
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[int, int]] = {}

    def add(self, topics: Iterable[str]) -> None:
        """Add topics; they have no subscribers until `set_counts`."""
        for topic in topics:
            self._counts.setdefault(topic, {})

    def remove(self, topics: Iterable[str]) -> None:
        """Remove topics."""
        for topic in topics:
            self._counts.pop(topic, None)

    @property
    def topics(self) -> list[str]:
        """All topics."""
        return list(self._counts)

    def affected_by_creation(self, uri: str, match: str) -> list[str]:
        """Return the topics to count again after a subscription to ``uri`` was created."""
        return [topic for topic in self._counts if _matches(topic, uri, match)]

    def affected_by_change(self, subscription_id: int) -> list[str]:
        """Return the topics to count again after a subscription got or lost a subscriber.

        The router sends no meta event for a subscription that it creates for a retained event. So an
        unknown id may belong to any topic without a known subscription.
        """
        known = [topic for topic, counts in self._counts.items() if subscription_id in counts]
        return known or [topic for topic, counts in self._counts.items() if not counts]

    def set_counts(self, topic: str, counts: Mapping[int, int]) -> bool:
        """Set the subscriber counts of a topic by subscription id; return whether `has_subscribers` changed."""
        if topic not in self._counts:
            return False
        before = self.has_subscribers(topic)
        self._counts[topic] = dict(counts)
        return before != self.has_subscribers(topic)

    def has_subscribers(self, topic: str) -> bool:
        """Return whether the topic has subscribers."""
        return any(self._counts.get(topic, {}).values())


def _matches(topic: str, uri: str, match: str) -> bool:
    if match == "prefix":
        return topic.startswith(uri)
    if match == "wildcard":
        mine, theirs = topic.split("."), uri.split(".")
        return len(mine) == len(theirs) and all(part in ("", own) for part, own in zip(theirs, mine, strict=True))
    return topic == uri


class StatusThrottle:
    """Decides when a machine's status is published."""

    def __init__(self) -> None:
        self._last: Status | None = None
        self._at = -math.inf

    def due(self, status: Status, now: float, *, listened: bool) -> bool:
        """Return whether to publish this status now, and record it as published if so.

        A change of state, run, revision or source is published also without subscribers, because the
        router retains it for later ones. ``listened`` says whether the topic has subscribers.
        """
        since_s = now - self._at
        if since_s < STATUS_MIN_INTERVAL_S:
            return False
        last = self._last
        fresh = last is None or _state_fields(last) != _state_fields(status)
        if listened and not fresh:
            fresh = since_s >= STATUS_MAX_INTERVAL_S or last is None or _counter_fields(last) != _counter_fields(status)
        if fresh:
            self._last, self._at = status, now
        return fresh


def _state_fields(status: Status) -> tuple[object, ...]:
    return status.run, status.state, status.reason, status.running, status.revision, status.source.state


def _counter_fields(status: Status) -> tuple[object, ...]:
    return status.put, status.last_seq, status.errored, status.dropped, status.refused, status.queue_size


class RateLimit:
    """Allows ``per_s`` items per second on average, and as many at once after a second without any."""

    def __init__(self, per_s: float = ERRORS_PER_S) -> None:
        self._per_s = self._left = per_s
        self._at = -math.inf

    def allow(self, now: float) -> bool:
        """Return whether one more item is allowed now, and count it if so."""
        self._left = min(self._per_s, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


def split_to_fit(message: IopubMessage) -> list[IopubMessage]:
    """Return the message as one or several messages within the payload limit.

    A large stream text is split. The content of any other large message is replaced by a placeholder
    with its size; the message keeps its type.
    """
    size = _size(message)
    if size + _ENVELOPE_BYTES <= PAYLOAD_LIMIT_BYTES:
        return [message]
    if message.msg_type == "stream":
        text = message.content["text"]
        parts = (text[start : start + PART_CHARACTERS] for start in range(0, len(text), PART_CHARACTERS))
        return [msgspec.structs.replace(message, content={**message.content, "text": part}) for part in parts]
    note = f"<{message.msg_type} of {size:,} bytes exceeds the limit of {PAYLOAD_LIMIT_BYTES:,}>"
    content: dict[str, Any] = {"data": {"text/plain": note}, "metadata": {}, "transient": {}}
    if message.msg_type == "execute_result":
        content["execution_count"] = message.content.get("execution_count")
    elif message.msg_type == "error":
        content = {"ename": message.content.get("ename", "")[:200], "evalue": note, "traceback": [note]}
    elif message.msg_type not in ("display_data", "update_display_data"):
        content = {"too_large": size}
    return [msgspec.structs.replace(message, content=content, metadata={}, buffers=[])]


def _size(message: IopubMessage) -> int:
    """Return the approximate size of a message on the wire, in bytes."""
    return len(msgspec.msgpack.encode((message.content, message.metadata))) + sum(map(len, message.buffers))
