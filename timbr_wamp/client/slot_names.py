"""The names of a remote machine's slots, for the records that are read from it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from timbr_wamp.contract import SlotInfo, SlotNames
from timbr_wamp.errors import TimbrError

logger = logging.getLogger(__name__)

#: Revisions whose names are remembered.
KEPT = 8


class SlotNamesCache:
    """Fetches the names of slots when there is a record of a revision that it has not seen. Any loop."""

    def __init__(self, fetch: Callable[[], Awaitable[Any]]) -> None:
        self._fetch = fetch
        self._known: dict[tuple[str, int], tuple[str | None, ...]] = {}

    async def of(self, run: str, revision: int) -> SlotNames:
        """Return the names for a record; none when they cannot be fetched, since the record is worth more."""
        names = self._known.get((run, revision))
        if names is None:
            try:
                names = names_of(await self._fetch())
            except TimbrError as error:
                logger.debug("could not fetch the names of slots: %s", error)
                return SlotNames()
            while len(self._known) >= KEPT:
                self._known.pop(next(iter(self._known)), None)
            self._known[run, revision] = names
        return SlotNames(names)


class StreamNames:
    """The names for a stream of records, which all its records share: those of the newest revision known."""

    def __init__(self) -> None:
        self.shared = SlotNames()
        self._of: tuple[str, int] | None = None
        self._wanted: tuple[str, int] | None = None

    def on_status(self, status: Mapping[str, Any]) -> bool:
        """Note what a status says; return whether the names are to be fetched."""
        revision = status.get("revision")
        if revision is not None and (status["run"], revision) != self._of:
            self._wanted = status["run"], revision
        return self.wanted

    @property
    def wanted(self) -> bool:
        """Names are to be fetched."""
        return self._wanted is not None

    async def fetch(self, fetch: Callable[[], Awaitable[Any]]) -> None:
        """Fetch them; after a failure the next status asks for them again."""
        wanted, self._wanted = self._wanted, None
        try:
            self.shared.names = names_of(await fetch())
        except TimbrError as error:
            logger.debug("could not fetch the names of slots: %s", error)
        else:
            self._of = wanted


def names_of(slots: Sequence[Any]) -> tuple[str | None, ...]:
    """Return the names of slots, from structs or as they come over the wire."""
    return tuple(slot.name if isinstance(slot, SlotInfo) else slot["name"] for slot in slots)
