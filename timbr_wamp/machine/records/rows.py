"""Kept rows as they cross the wire."""

from __future__ import annotations

from timbr_wamp.contract import RecordRow
from timbr_wamp.machine.messages import Row


def wire_row(row: Row) -> RecordRow:
    """Return a kept row as it crosses the wire."""
    return RecordRow(row[0], row[1], row[2].decode(), row[3].decode())
