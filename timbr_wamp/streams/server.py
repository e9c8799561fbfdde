"""What storages on a server have in common: the URL's options, and calls that are made again when a connection is lost.

A call ends about ``timeout_s`` (an option of the URL) after the server's last answer: with `StorageFailed`.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from timbr_wamp.errors import InvalidArgument, StorageBusy, StorageClosed, StorageFailed, did_you_mean

T = TypeVar("T")

#: A call is made again after a lost connection for this long, seconds, unless the URL says otherwise: a server that
#: is restarted is back by then.
TIMEOUT_S = 15.0
#: Seconds between two tries: the first, and the longest.
RETRY_S, LONGEST_RETRY_S = 0.01, 0.5
#: Seconds before the next try when another one changed the same document: the first, and the longest.
CONTENDED_S, LONGEST_CONTENDED_S = 0.001, 0.05
#: Longest `timeout_s`.
TIMEOUT_LIMIT_S = 3600.0


def split_url(url: str, own: Iterable[str], passed: Callable[[str], bool]) -> tuple[str, dict[str, str]]:
    """Take our options out of a URL's query; return the rest of the URL, and them.

    Raises:
        InvalidArgument: there is an option that is neither one of ``own`` nor ``passed`` on to the library, or a
            password with characters that end it; the error does not show it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidArgument("url", f"{url.partition(':')[0][:20]}: it is no valid address") from None
    if parts.fragment or "@" in parts.path or "@" in parts.query:
        raise InvalidArgument("url", "write the characters / ? # @ of user and password as %2F %3F %23 %40")
    known = tuple(own)
    ours, theirs = dict[str, str](), list[tuple[str, str]]()
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name in known:
            ours[name] = value
        elif passed(name):
            theirs.append((name, value))
        else:
            near = did_you_mean(name, known)
            raise InvalidArgument("url", f"it has no option {name[:40]!r}; our own are {', '.join(known)}{near}")
    return urlunsplit(parts._replace(query=urlencode(theirs), fragment="")), ours


def timeout_of(options: dict[str, str]) -> float:
    """Return the option ``timeout_s`` of a URL."""
    text = options.get("timeout_s", "")
    try:
        timeout_s = float(text) if text else TIMEOUT_S
    except ValueError:
        timeout_s = math.nan
    if not 0.0 < timeout_s <= TIMEOUT_LIMIT_S:
        raise InvalidArgument("url", f"timeout_s={text[:40]!r} is not a number of seconds up to {TIMEOUT_LIMIT_S:g}")
    return timeout_s


class Caller:
    """Makes calls of one server. Any thread.

    Args:
        place: the server's address without secrets, for errors.
        failures: the library's own base classes of errors.
        translated: an error of the library, and how long the call has waited → ours, and whether to try again.
    """

    def __init__(
        self,
        place: str,
        timeout_s: float,
        failures: tuple[type[Exception], ...],
        translated: Callable[[Exception, float], tuple[StorageFailed | StorageBusy, bool]],
    ) -> None:
        self.place, self.timeout_s = place, timeout_s
        self._failures, self._translated = failures, translated
        self._closed = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed.is_set()

    def close(self) -> None:
        """Let each call from now on, and those that wait, raise `StorageClosed`."""
        self._closed.set()

    def check(self) -> None:
        """Raise `StorageClosed` after `close`."""
        if self._closed.is_set():
            raise StorageClosed(self.place)

    def call(self, work: Callable[[], T]) -> T:
        """Return what ``work()`` returns; it is called again when the connection was lost.

        Raises:
            StorageFailed, StorageBusy: the server refused, or it did not answer in ``timeout_s``.
            StorageClosed: `close` was called.
        """
        started = time.monotonic()
        pause_s = RETRY_S
        while True:
            self.check()
            try:
                return work()
            except Exception as error:
                self.check()  # closing breaks what the library does in other threads, with errors of any class
                if not isinstance(error, self._failures):
                    raise
                waited_s = time.monotonic() - started
                failure, again = self._translated(error, waited_s)
                if not again or waited_s + pause_s >= self.timeout_s:
                    raise failure from error
            self.pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_RETRY_S)

    def tries(self) -> Iterator[None]:
        """Yield for each try of a change that others may get ahead of.

        Raises:
            StorageBusy: they did, for ``timeout_s``.
            StorageClosed: `close` was called.
        """
        started = time.monotonic()
        pause_s = CONTENDED_S
        while True:
            self.check()
            yield
            waited_s = time.monotonic() - started
            if waited_s >= self.timeout_s:
                raise StorageBusy(self.place, waited_s)
            self.pause(pause_s)
            pause_s = min(2 * pause_s, LONGEST_CONTENDED_S)

    def pause(self, pause_s: float) -> None:
        """Wait about so long, or until `close`: several that wait for the same thing do not come back together."""
        self._closed.wait(pause_s * random.uniform(0.5, 1.0))
