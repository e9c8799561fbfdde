"""Codecs of things that are read like files: what is open and where, never its content in a preview.

The full form reads a file that can go back, from its start, and sets the position again. Pipes,
sockets and terminals cannot, so they are only described.
"""

from __future__ import annotations

import base64
import io
import os
import stat
from collections.abc import Mapping
from typing import Any

from timbr_wamp.codecs.base import ClassCodec, Codec, cut
from timbr_wamp.codecs.plain import load_bytes

#: So much of a file stands in its full form: bytes, or characters of a text file.
FILE_LIMIT = 8 * 1024 * 1024


def _preview(value: Any) -> dict[str, object]:
    form: dict[str, object] = {"class": type(value).__qualname__[:200], "closed": bool(value.closed)}
    for key in ("name", "mode"):
        told = getattr(value, key, None)
        if isinstance(told, (str, int)):
            form[key] = cut(told) if isinstance(told, str) else told
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


def _full(value: Any) -> dict[str, object]:
    form = _preview(value)
    position = form.get("position")
    if position is None or not value.readable():
        return form
    try:
        value.seek(0)
        data = value.read(FILE_LIMIT + 1)
    finally:
        value.seek(position)
    form["complete"] = len(data) <= FILE_LIMIT
    data = data[:FILE_LIMIT]
    if isinstance(data, str):
        return {**form, "text": data}
    return {**form, "__data__": base64.b64encode(data).decode()}


def _load(form: Mapping[str, Any]) -> io.BytesIO | io.StringIO:
    """Return what was read as a file in memory, at the same position; no file is opened."""
    if form["complete"] is not True:
        raise ValueError("only a part was read")
    file = io.StringIO(form["text"], newline="") if "text" in form else io.BytesIO(load_bytes(form))
    if isinstance(file, io.StringIO) and form["class"] != "StringIO":
        return file  # a position in an encoded file is none in its text
    file.seek(form["position"])
    return file


FILE = ClassCodec("file", _preview, _full, _load)

#: By name, since the base that all of them really have is private: `io.IOBase` only knows them.
CODECS: dict[type | str, Codec] = {"_io._IOBase": FILE, "tempfile._TemporaryFileWrapper": FILE}
