"""Codecs of things that are read like files: what is open and where, never its content."""

from __future__ import annotations

import io
import os
import stat
from typing import Any

from timbr_wamp.codecs.base import ClassCodec, Codec, class_name, cut


def _preview(value: Any) -> dict[str, object]:
    form: dict[str, object] = {"class": class_name(type(value)), "closed": bool(value.closed)}
    for key in ("name", "mode"):
        known = getattr(value, key, None)
        if isinstance(known, (str, int)):
            form[key] = cut(known) if isinstance(known, str) else known
    if value.closed:
        return form
    size = _size(value)
    if size is not None:
        form["size_bytes"] = size
    position = _position(value)
    if position is not None:
        form["position"] = position
    return form


def _size(value: Any) -> int | None:
    """Return a file's size without moving in it; None for what has none."""
    if isinstance(value, io.BytesIO):
        with value.getbuffer() as buffer:
            return buffer.nbytes
    try:
        status = os.fstat(value.fileno())
    except (OSError, ValueError, AttributeError):  # in memory, or of a class that has no descriptor
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _position(value: Any) -> int | None:
    """Return where a file is; None if it cannot go back, or does not tell while somebody reads its lines."""
    try:
        return int(value.tell()) if value.seekable() else None
    except OSError:
        return None


_FILE = ClassCodec("file", _preview)

#: By name, since the base that all of them really have is private: `io.IOBase` only knows them.
CODECS: dict[type | str, Codec] = {"_io._IOBase": _FILE, "tempfile._TemporaryFileWrapper": _FILE}
