"""A consumer group as a value, for storages that keep it as one document: what it holds, and what that means. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, field

import orjson

from timbr_wamp.streams.entries import Claim, GroupInfo, Position, StreamEntry

#: An entry goes to the dead-letter stream after so many claims, unless its group says otherwise.
DEFAULT_MAX_ATTEMPTS = 5
#: What was given back has this fence: no holder has it.
FREE = 0
#: What the dead-letter stream says of an entry that nobody gave back.
LEASE_ENDED = "its lease ended each time"


@dataclass(slots=True)
class Held:
    """An entry that a consumer has, or gave back."""

    position: Position
    fence: int
    consumer: str
    #: When it can be claimed again: UTC seconds since the epoch.
    until: float
    attempts: int
    error: str | None = None

    def claim(self, group: str, entry: StreamEntry) -> Claim:
        """Return it as what a consumer gets."""
        return Claim(
            entry.position, entry.appended_at, entry.key, entry.text,
            group=group, consumer=self.consumer, fence=self.fence, attempt=self.attempts, until=self.until,
        )  # fmt: skip


@dataclass(slots=True)
class GroupState:
    """An entry of a group is acknowledged when it is at or below ``following`` and not held."""

    #: The highest position that was claimed.
    following: Position = 0
    #: That of the newest claim.
    fence: int = 0
    max_attempts: int = DEFAULT_MAX_ATTEMPTS
    held: dict[Position, Held] = field(default_factory=dict)

    @classmethod
    def parsed(cls, text: bytes) -> GroupState:
        """Return what `text` wrote."""
        known = orjson.loads(text)
        rows = known.pop("held")
        return cls(**known, held={row[0]: Held(*row) for row in rows})

    def text(self) -> bytes:
        """Return it as JSON text."""
        content = asdict(GroupState(self.following, self.fence, self.max_attempts))
        return orjson.dumps(content | {"held": [astuple(one) for one in self.held.values()]})

    @property
    def position(self) -> Position:
        """All entries up to this one are acknowledged, or in the dead-letter stream."""
        return min(self.held) - 1 if self.held else self.following

    def due(self, now: float) -> list[Held]:
        """Return what can be claimed again, lowest first."""
        return sorted((one for one in self.held.values() if one.until <= now), key=lambda one: one.position)

    def invalid(self, claims: Sequence[tuple[Position, int]], now: float) -> list[Position]:
        """Return the positions whose claim has ended. An ended lease that nobody took over is valid no more, either."""
        lost = []
        for position, fence in claims:
            one = self.held.get(position)
            if one is None or one.fence != fence or fence == FREE or one.until <= now:
                lost.append(position)
        return lost

    def info(self, name: str, last: Position, kept: int) -> GroupInfo:
        """Return what users are told of it, for a stream that keeps its ``kept`` newest entries."""
        waiting = last - max(self.following, last - kept)
        return GroupInfo(name, self.position, len(self.held), waiting, self.max_attempts)
