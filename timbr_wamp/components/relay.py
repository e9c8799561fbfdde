"""The bridge's decisions: which topics have subscribers, what is published and how often, how messages are split.

Sans-I/O: no sockets, no tasks, no clock. The rates are those of the contract's topics.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES, Interest, IopubMessage, Status
from timbr_wamp.names import kernel_uri

ERRORS_PER_S = 10.0
#: Shortest interval between statuses, and longest one while the topic has subscribers.
STATUS_MIN_INTERVAL_S = 0.25
STATUS_MAX_INTERVAL_S = 2.0
#: Longest text of a stream message; larger output of print() is split.
PART_CHARACTERS = PAYLOAD_LIMIT_BYTES // 8
#: Size of a message without its content.
_ENVELOPE_BYTES = 1024


class SubscribedTopics:
    """The topics of a kernel that have subscribers, as the node component tells the bridge."""

    def __init__(self, kernel_id: str) -> None:
        self._kernel_id = kernel_id
        self._number = 0
        self._topics: frozenset[str] = frozenset()

    def tell(self, interest: Interest) -> bool:
        """Take what the node component said; return whether the topics changed.

        Its answers and its events may arrive in another order than it sent them, so an older statement than
        the newest one is ignored.
        """
        if interest.kernel_id != self._kernel_id or interest.number <= self._number:
            return False
        self._number = interest.number
        return self._set(frozenset(kernel_uri(self._kernel_id, *name.split(".")) for name in interest.topics))

    def clear(self) -> bool:
        """Forget everything, because there is no wamp session; return whether the topics changed."""
        self._number = 0
        return self._set(frozenset())

    def _set(self, topics: frozenset[str]) -> bool:
        before, self._topics = self._topics, topics
        return before != topics

    def has_subscribers(self, topic: str) -> bool:
        """Return whether the topic has subscribers."""
        return topic in self._topics


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
