"""What a client tells of its connection: changes of the link, counts, and what a close left undone."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinkChange:
    """The connection to the router was lost, or is there again."""

    connected: bool
    #: Why it was lost; empty when it is there again.
    reason: str
    #: How often it came back since the client was opened, this time included.
    reconnections: int
    #: UTC seconds.
    time: float


@dataclass(frozen=True, slots=True)
class ConnectionStatistics:
    """Counts of a client. Those of the first line count since it was opened, the others are of this moment."""

    connected: bool
    reconnections: int
    #: Requests for records that were missed.
    refills: int
    #: Gaps: runs of records that the machine no longer kept when they were requested.
    gaps: int
    #: Calls that waited before they were sent, because the buffer of what is sent was full.
    paced: int
    #: Events that were dropped because callbacks were too slow.
    events_dropped: int
    #: Calls that have no answer yet, callbacks that have not ended, and bytes that wait to be sent.
    calls: int
    callbacks: int
    send_bytes: int
    #: Records that readers hold and have not handed over, and the bytes of their texts.
    buffered_rows: int
    buffered_bytes: int


@dataclass(frozen=True, slots=True)
class Unfinished:
    """What a client left undone when it was closed; false when nothing."""

    #: Calls without an answer: they failed with `ConnectionLost`, and may have had their effect.
    calls: int = 0
    #: Callbacks of events that came, and were not called.
    callbacks: int = 0
    #: Records that readers held and had not handed over.
    rows: int = 0
    #: Bytes that were not sent.
    send_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.calls or self.callbacks or self.rows or self.send_bytes)
