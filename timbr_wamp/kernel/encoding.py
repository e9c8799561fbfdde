"""Let a kernel send texts that UTF-8 cannot carry: lone surrogates, as undecodable file names have them.

Jupyter's packers raise UnicodeEncodeError for such a text: what a cell printed, or the traceback of what it raised,
would never arrive.
"""

from __future__ import annotations

from typing import Any

from timbr_wamp.errors import clean_text


def send_any_text(session: Any) -> None:
    """Make a Jupyter session write lone surrogates as their escapes. Idempotent."""
    if not isinstance(session.pack, CleanPacker):
        session.pack = CleanPacker(session.pack)


def send_as_before(session: Any) -> None:
    """Give a Jupyter session its own packer back."""
    if isinstance(session.pack, CleanPacker):
        session.pack = session.pack.pack


class CleanPacker:
    """Packs a message as ``pack`` does, its texts cleaned when they have to be."""

    def __init__(self, pack: Any) -> None:
        self.pack = pack

    def __call__(self, message: object) -> Any:
        try:
            return self.pack(message)
        except UnicodeEncodeError:
            return self.pack(_cleaned(message))


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, dict):
        return {_cleaned(key): _cleaned(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cleaned(item) for item in value]
    return value
