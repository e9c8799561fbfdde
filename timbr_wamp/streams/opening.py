"""`stream`: a URL and a name → a `Stream`. One storage object a URL and process, however many streams use it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import cast

from timbr_wamp import plugins
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.settings import load_settings
from timbr_wamp.streams.backend import StreamBackend
from timbr_wamp.streams.entries import checked_name
from timbr_wamp.streams.stream import Stream

#: The file of `stream` without a URL, in the data folder.
DEFAULT_FILE = "streams.db"
#: Schemes that mean the same backend.
_SAME = {"mongodb+srv": "mongodb", "rediss": "redis", "unix": "redis"}


@dataclass(slots=True)
class _Open:
    backend: StreamBackend
    users: int


_open: dict[tuple[int, str], _Open] = {}
_lock = threading.RLock()


def stream(name: str, url: str | None = None) -> Stream:
    """Open a stream; it comes into being when something is appended. Any thread.

    >>> events = stream("events", url="memory://doctest")
    >>> events.append("hello")
    1
    >>> stream("events", url="memory://doctest").read()[0].message
    'hello'

    Args:
        name: 1 to 100 of A-Z, a-z, 0-9, ``_``, ``-`` and ``.``.
        url: ``sqlite:///path``, ``memory://name`` (this process only), ``redis://host``, ``mongodb://host/database``,
            or that of another package's backend; None: the setting ``streams_url``, else a file in the data folder.

    Raises:
        InvalidName, InvalidArgument: the name or the URL is not valid.
        UnknownPlugin, PluginNotInstalled: nobody knows the URL's scheme; its library is missing, as the extra ``redis``
            or ``mongodb`` brings it.
        StorageFailed, StorageBusy: the storage cannot be opened.
    """
    checked_name(name)
    backend, release = open_backend(default_url() if url is None else url)
    return Stream(backend, name, release=release)


def stream_names(url: str | None = None) -> list[str]:
    """Return the names of all streams at a URL, sorted. Arguments and errors as of `stream`."""
    backend, release = open_backend(default_url() if url is None else url)
    try:
        return backend.names()
    finally:
        release()


def default_url() -> str:
    """Return the URL of streams that name none."""
    settings = load_settings()
    return settings.streams_url or f"sqlite://{settings.data_dir / DEFAULT_FILE}"


def open_backend(url: str) -> tuple[StreamBackend, Callable[[], None]]:
    """Return the storage at a URL, and what to call when it is no longer needed, once."""
    scheme, separator, _ = url.partition("://") if isinstance(url, str) else ("", "", "")
    if not separator:
        raise InvalidArgument("url", f"{str(url)[:80]!r} has no scheme; write for example sqlite:///folder/file.db")
    scheme = _SAME.get(scheme, scheme)
    key = (os.getpid(), url)
    with _lock:
        known = _open.get(key)
        if known is None:
            make = cast("Callable[[str], StreamBackend]", plugins.load(plugins.STREAMS, scheme))
            # What is in memory stays for as long as the process lives.
            known = _open[key] = _Open(make(url), 1 if scheme == "memory" else 0)
        known.users += 1
    return known.backend, partial(_release, key, known)


def _release(key: tuple[int, str], used: _Open) -> None:
    with _lock:
        used.users -= 1
        if used.users or _open.get(key) is not used:
            return
        del _open[key]
    used.backend.close()


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
