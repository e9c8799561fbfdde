"""The child processes of the executor ``"processes"``, as the parent handles them.

A child is started by ``python -c``, so it does not import the user's ``__main__``, and scripts need no
guard. It answers one request at a time. See `timbr_wamp.machine.running.executors.child`.
"""

from __future__ import annotations

import contextlib
import json
import linecache
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from timbr_wamp.errors import WrongState
from timbr_wamp.machine.running.cancellation import current
from timbr_wamp.machine.running.executors.child import Batch, Functions, SingleCall
from timbr_wamp.machine.running.executors.sendable import Sendable

logger = logging.getLogger(__name__)

#: Time for children to end by themselves, seconds.
END_S = 0.5
#: Functions that a child keeps.
FUNCTIONS_KEPT = 256

#: ``sys.path`` comes first, so that a child finds what its parent finds.
COMMAND = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[3]); "
    "from timbr_wamp.machine.running.executors.child import main; main()"
)


class ChildDied(Exception):
    """The child ended while it had a request. ``status``: see `subprocess.Popen.returncode`."""

    def __init__(self, status: int | None) -> None:
        super().__init__(status)
        self.status = status


class ChildTooSlow(Exception):
    """The child did not reply in time and was killed."""


class ChildOutdated(Exception):
    """The child started before the module of a function was changed, and may have imported it."""


class ChildProcess:
    """One child. One thread at a time, `kill` any thread."""

    def __init__(self) -> None:
        self._started_at = time.time()
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", COMMAND, str(theirs.fileno()), str(lifeline), json.dumps(sys.path)],
                pass_fds=(theirs.fileno(), lifeline), stdin=subprocess.DEVNULL, process_group=0,
            )  # fmt: skip
        except BaseException:
            ours.close()
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._connection = Connection(ours.detach())
        self._creator = os.getpid()
        #: Numbers of the functions that it has, most recently used last.
        self._functions: dict[int, None] = {}
        self._sources: set[str] = set()

    def wait_ready(self) -> None:
        """Wait until it answers requests, so that its start does not count against a time limit.

        Raises:
            ChildDied: it could not start; see its stderr.
        """
        try:
            self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise ChildDied(self._status()) from error

    def request(
        self,
        functions: Mapping[int, Sendable],
        make: Callable[[Functions], Batch | SingleCall],
        timeout_s: float | None = None,
    ) -> Any:
        """Send a request that uses ``functions`` and return the reply.

        Raises:
            ChildOutdated: nothing was sent; another child is needed.
            ChildDied: it ended instead.
            ChildTooSlow: no reply in time; it was killed.
            CallCancelled: before it was sent. Afterwards the child is killed.
        """
        for number, one in functions.items():
            if one.changed_at > self._started_at and number not in self._functions:
                raise ChildOutdated
        request = pickle.dumps(make(self._news(functions)), 5)
        try:
            with current().ending(self.kill):
                self._connection.send_bytes(request)
                if not self._connection.poll(timeout_s):
                    self.kill()
                    raise ChildTooSlow
                return pickle.loads(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise ChildDied(self._status()) from error

    def _news(self, functions: Mapping[int, Sendable]) -> Functions:
        new = {number: one.data for number, one in functions.items() if number not in self._functions}
        for number in functions:
            self._functions.pop(number, None)
            self._functions[number] = None
        forget = list(self._functions)[:-FUNCTIONS_KEPT]
        for number in forget:
            del self._functions[number]
        return Functions(new, forget, self._new_sources() if new else {})

    def _new_sources(self) -> dict[str, Any]:
        """Return source texts that are in no file: cells and slots set by text. Tracebacks show their lines."""
        cached = linecache.cache.copy()
        new = {
            name: entry
            for name, entry in cached.items()
            if name not in self._sources and len(entry) == 4 and entry[1] is None
        }
        self._sources.update(new)
        return new

    def _status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(END_S)
        return None

    def kill(self) -> None:
        """Kill it."""
        if os.getpid() == self._creator:
            self._process.kill()

    def close(self, timeout_s: float) -> None:
        """Release it; it ends by itself, or is killed after ``timeout_s``."""
        for close in (self._connection.close, lambda: os.close(self._lifeline)):
            with contextlib.suppress(OSError):
                close()
        if os.getpid() != self._creator:
            return
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Children:
    """At most ``count`` children, started when needed. Any thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._changed = threading.Condition()
        self._idle: list[ChildProcess] = []
        self._busy: set[ChildProcess] = set()
        self._starting = 0
        self._closed = False

    def request(
        self,
        functions: Mapping[int, Sendable],
        make: Callable[[Functions], Batch | SingleCall],
        timeout_s: float | None = None,
    ) -> Any:
        """Have an idle child answer a request, see `ChildProcess.request`; wait for one if need be."""
        while True:
            try:
                with self._one() as child:
                    return child.request(functions, make, timeout_s)
            except ChildOutdated:
                continue  # it was replaced

    @contextmanager
    def _one(self) -> Iterator[ChildProcess]:
        """Give an idle child, waiting for one if necessary; it is replaced if the block raises.

        Raises:
            WrongState: they were closed.
        """
        child = self._acquire()
        try:
            yield child
        except BaseException:
            self._release(child, reusable=False)
            raise
        else:
            self._release(child, reusable=True)

    def _acquire(self) -> ChildProcess:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._idle or len(self._busy) + self._starting < self.count)
            if self._closed:
                raise WrongState("run slots in child processes", "closed", "open")
            if self._idle:
                child = self._idle.pop()
                self._busy.add(child)
                return child
            self._starting += 1
        try:
            child = ChildProcess()
            with self._changed:
                self._busy.add(child)
        finally:
            with self._changed:
                self._starting -= 1
                self._changed.notify_all()
        try:
            child.wait_ready()
        except BaseException:
            self._release(child, reusable=False)
            raise
        return child

    def _release(self, child: ChildProcess, *, reusable: bool) -> None:
        with self._changed:
            self._busy.discard(child)
            reusable = reusable and not self._closed
            if reusable:
                self._idle.append(child)
            self._changed.notify_all()
        if not reusable:
            child.kill()
            child.close(END_S)

    def kill_busy(self) -> None:
        """Kill the children that are running calls, whose results are no longer wanted."""
        with self._changed:
            busy = list(self._busy)
        for child in busy:
            child.kill()

    def close(self) -> None:
        """End all children. Idempotent, bounded."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            busy = list(self._busy)
            self._changed.notify_all()
        for child in busy:  # the threads that wait for them release them
            child.kill()
        deadline = time.monotonic() + END_S
        for child in idle:
            child.close(max(deadline - time.monotonic(), 0.0))
        with self._changed:
            if not self._changed.wait_for(lambda: not self._busy and not self._starting, END_S):
                logger.warning("%d child processes are still being ended", len(self._busy) + self._starting)
