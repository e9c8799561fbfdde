"""Durable, named sequences of messages, with consumer groups. See ``docs/reference/streams.md``."""

from timbr_wamp.streams.entries import Claim, GroupInfo, Retention, StreamEntry, StreamInfo
from timbr_wamp.streams.opening import stream, stream_names
from timbr_wamp.streams.stream import ConsumerGroup, Stream

__all__ = [
    "Claim",
    "ConsumerGroup",
    "GroupInfo",
    "Retention",
    "Stream",
    "StreamEntry",
    "StreamInfo",
    "stream",
    "stream_names",
]
