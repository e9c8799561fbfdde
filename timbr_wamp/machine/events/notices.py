"""Notices: hook objects that send events outside, such as the end of a source to a command or web address.

Give one to ``Machine(hooks=[…])``. They run in the machine's bus thread, one at a time, each within its
time limit: the machine continues meanwhile, other ``on_…`` hooks and callbacks wait. A notice that
fails is counted and logged like a failing hook, and is not sent again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from email.message import Message
from typing import IO, Final
from urllib.parse import urlsplit

from timbr_wamp.contract import Event, to_builtins
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.events.hooks import checked_point
from timbr_wamp.values import JsonValue, to_json

#: Of a command's stderr the last characters are reported.
STDERR_LIMIT = 2_000
#: Linux allows 128 KiB for one variable; a larger event is in TIMBR_EVENT without its data.
VARIABLE_LIMIT_BYTES = 100_000

_DRAINED: Final = ("drained",)


class Notice:
    """Reports the events of some kinds; how, subclasses say in `tell`.

    ``about`` goes into each event's JSON: which machine it was, for example.
    """

    def __init__(self, kinds: Sequence[str], timeout_s: float, about: Mapping[str, JsonValue] | None) -> None:
        if isinstance(kinds, str) or not kinds:
            raise InvalidArgument("kinds", f"a list of one or more kinds of events, not {kinds!r}")
        if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 < timeout_s <= 3600:
            raise InvalidArgument("timeout_s", f"seconds, over 0 and at most 3600, not {timeout_s!r}")
        self.kinds, self.timeout_s = tuple(kinds), float(timeout_s)
        self._about = dict(about or {})
        #: How many were sent, and how many failed.
        self.sent = self.failures = 0
        for kind in self.kinds:
            setattr(self, checked_point(f"on_{kind}"), self._notify)

    def tell(self, event: Event) -> None:
        """Report one event within ``timeout_s``. Called in the bus thread; what it raises is a failure."""
        raise NotImplementedError

    def text(self, event: Event, *, data: bool = True) -> bytes:
        """Return the event as JSON, with ``about`` added."""
        known = to_builtins(event)
        return to_json({**known, **({} if data else {"data": {}}), **self._about})

    def _notify(self, event: Event) -> None:
        try:
            self.tell(event)
        except BaseException:
            self.failures += 1
            raise
        self.sent += 1


class RunCommand(Notice):
    """Run a program, without a shell; the event's JSON is its standard input and the variable ``TIMBR_EVENT``.

    A program that takes longer than ``timeout_s`` is killed, with the processes that it started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        kinds: Sequence[str] = _DRAINED,
        timeout_s: float = 30.0,
        *,
        about: Mapping[str, JsonValue] | None = None,
    ) -> None:
        if isinstance(argv, str) or not argv or not all(isinstance(part, str) for part in argv):
            raise InvalidArgument("argv", f"a list of texts, the program first, not {argv!r}: there is no shell")
        super().__init__(kinds, timeout_s, about)
        self.argv = tuple(argv)

    def tell(self, event: Event) -> None:
        """Run the program; raise CalledProcessError or TimeoutExpired when it fails."""
        text = self.text(event)
        short = text if len(text) <= VARIABLE_LIMIT_BYTES else self.text(event, data=False)
        environment = {**os.environ, "TIMBR_EVENT": short.decode()}
        with tempfile.TemporaryFile() as errors:  # processes that the program leaves behind would keep a pipe open
            process = subprocess.Popen(
                self.argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors, env=environment,
                start_new_session=True,
            )  # fmt: skip
            try:
                process.communicate(text, timeout=self.timeout_s)
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
            if process.returncode:
                errors.seek(max(0, errors.seek(0, os.SEEK_END) - STDERR_LIMIT))
                failed = subprocess.CalledProcessError(process.returncode, self.argv)
                failed.add_note(errors.read().decode("utf-8", "replace"))
                raise failed

    def __repr__(self) -> str:
        return f"<RunCommand {self.argv[0]} on {', '.join(self.kinds)}: {self.sent} sent, {self.failures} failed>"


class PostJson(Notice):
    """Send the event's JSON to a web address. Only http and https; redirects are not followed.

    Address and headers may hold secrets, so neither is in its repr, beyond the host.
    """

    def __init__(
        self,
        url: str,
        kinds: Sequence[str] = _DRAINED,
        timeout_s: float = 10.0,
        *,
        headers: Mapping[str, str] | None = None,
        about: Mapping[str, JsonValue] | None = None,
    ) -> None:
        address = urlsplit(url) if isinstance(url, str) else urlsplit("")
        if address.scheme not in ("http", "https") or not address.hostname:
            raise InvalidArgument("url", "an address that begins with http:// or https:// and names a host")
        super().__init__(kinds, timeout_s, about)
        self._url, self._host = url, address.hostname
        self._headers = {"User-Agent": "timbr_wamp", **(headers or {}), "Content-Type": "application/json"}
        self._opener = urllib.request.build_opener(_NoRedirects)

    def tell(self, event: Event) -> None:
        """Post the event; raise OSError without an answer in time, or with one that is not success."""
        request = urllib.request.Request(self._url, self.text(event), self._headers, method="POST")
        with self._opener.open(request, timeout=self.timeout_s):
            pass

    def __repr__(self) -> str:
        return f"<PostJson to {self._host} on {', '.join(self.kinds)}: {self.sent} sent, {self.failures} failed>"


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Treats a redirect as a failure: headers with secrets are sent to no other address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> None:
        return None
