"""Keeps a machine's revisions, events and handler in its journal, and restores them: all of it that is no record.

What is kept here is small and may be lost with the last moments before a power failure; records and messages have
their own way (`timbr_wamp.machine.records.recorder`).
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import msgspec

from timbr_wamp.contract import Event
from timbr_wamp.errors import StorageBusy, StorageClosed, StorageFailed, described
from timbr_wamp.machine.events.log import EVENTS_KEPT, EventLog
from timbr_wamp.machine.protocols import Journal
from timbr_wamp.machine.slots.kept_revisions import load_slot, packed, unpacked
from timbr_wamp.machine.slots.table import REVISIONS_KEPT, Revision, SlotTable

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode
_decode_event = msgspec.json.Decoder(Event).decode


class History:
    """What a machine tells its journal beside messages and records. Any thread; without a journal nothing happens."""

    def __init__(self, journal: Journal | None, events: EventLog, table: SlotTable) -> None:
        self._journal, self._events, self._table = journal, events, table

    def restore(self) -> None:
        """Take events and revisions from the journal, and keep those to come. Before any other call.

        A slot that cannot be had again is reported as the event ``object_failed``.
        """
        journal = self._journal
        if journal is None:
            return
        self._events.restore([_decode_event(body) for _, body in journal.notes("event", EVENTS_KEPT)])
        self._events.keep = lambda event: self._note("event", event.number, lambda: _encode(event))
        kept = []
        for number, body in journal.notes("revision", REVISIONS_KEPT):
            try:
                kept.append(unpacked(body))
            except Exception as error:  # of another version
                logger.warning("revision %d of the journal cannot be read: %s", number, described(error))
        if not kept:
            self.keep_revision(self._table.current())
            return
        for task, reason in self._table.restore(kept, load_slot):
            self._events.add("object_failed", object=task, verb="restore", error=reason)

    def keep_revision(self, revision: Revision) -> None:
        """Keep a new revision."""
        self._note("revision", revision.number, lambda: packed(revision))

    def keep_handler(self, handler: object, options: object) -> None:
        """Keep which event handler was chosen."""
        self._note("handler", 0, lambda: bytes(cloudpickle.dumps((handler, options))))

    def handler(self) -> tuple[Any, Any] | None:
        """Return the event handler that was chosen last, and its options; None: there is none to be had."""
        if self._journal is None:
            return None
        for _, body in self._journal.notes("handler", 1):
            try:
                handler, options = pickle.loads(body)
            except Exception as error:  # its class is gone
                logger.warning("the event handler of the journal cannot be had again: %s", described(error))
            else:
                return handler, options
        return None

    def _note(self, kind: str, number: int, body: Callable[[], bytes]) -> None:
        if self._journal is None:
            return
        try:
            self._journal.note(kind, number, body())
        except StorageClosed:
            return  # the machine was closed
        except (StorageBusy, StorageFailed) as error:
            logger.error("%s %d is not in the journal: %s", kind, number, described(error))
        except Exception as error:  # a handler or function that cannot be pickled
            logger.info("%s %d is not kept beyond this process: %s", kind, number, described(error))
