"""Objects in slots: prepared before they are used, torn down when nothing uses them any more.

An object is open while the newest revision, or one that a message under way was begun with, has it
in a slot. Whoever processes messages says so by `Objects.use`; what was taken out of the slots is
torn down once all who began before that are through (the idea of read-copy-update,
https://www.kernel.org/doc/html/latest/RCU/whatisRCU.html).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from timbr_wamp.errors import PrepFailed
from timbr_wamp.machine.protocols import CoroutineRunner
from timbr_wamp.machine.slots.callables import is_async, is_object, method_of
from timbr_wamp.machine.slots.table import Revision, Slot
from timbr_wamp.values import clean_text

logger = logging.getLogger(__name__)

#: `close` waits so long for objects that are being torn down.
TEARDOWN_S = 5.0


class Objects:
    """The open objects of one machine. Any thread.

    Args:
        loop: where ``async def`` prep and teardown run, beside their steps.
        on_failure: told ``(name of the object, verb, error)`` of a teardown that raised.
    """

    def __init__(self, loop: CoroutineRunner, on_failure: Callable[[str, str, str], None]) -> None:
        self._loop, self._on_failure = loop, on_failure
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        #: By their ids; these entries keep them alive, so that an id stays theirs.
        self._open: dict[int, Any] = {}
        self._epoch = 0
        self._users: dict[object, int] = {}
        #: ``(epoch, object)``: out of the slots since then.
        self._retired: list[tuple[int, Any]] = []
        #: Ids of those that are being torn down.
        self._closing: set[int] = set()
        self._reaper: threading.Thread | None = None
        self._closed = False

    # --- changes: one at a time ---

    def admit(self, new: Revision) -> Callable[[], None]:
        """Prepare what ``new`` needs and is not open; return what is to be called once it is the newest.

        Runs ``prep`` in the calling thread, or in the event loop if it is ``async def``.

        Raises:
            PrepFailed: one of them raised; those prepared just before are torn down again.
        """
        wanted = {id(slot.function): slot for slot in new.slots if is_object(slot.function)}
        begun: list[Any] = []
        with self._lock:
            revived = [one for _, one in self._retired if id(one) in wanted]
            self._retired = [entry for entry in self._retired if id(entry[1]) not in wanted]
        try:
            for key, slot in wanted.items():
                if key not in self._open:
                    self._prepare_for(slot)
                    begun.append(slot.function)
        except PrepFailed:
            for one in begun:
                self._tear_down(one)
            with self._lock:
                self._retire(revived)
            raise
        with self._lock:
            self._open.update((id(one), one) for one in begun)
            if self._closed:  # just now
                self._retire(begun)
        return lambda: self._settle(set(wanted))

    def _settle(self, wanted: set[int]) -> None:
        """Let go of what the newest revision has not."""
        with self._lock:
            known = wanted | {id(one) for _, one in self._retired}
            self._retire([one for key, one in self._open.items() if key not in known])

    def _retire(self, objects: Iterable[Any]) -> None:
        self._retired += [(self._epoch, one) for one in objects]
        self._epoch += 1
        self._reap()

    def _prepare_for(self, slot: Slot) -> None:
        one = slot.function
        name = type(one).__qualname__
        if self._closed:
            raise PrepFailed(slot.number, name, "nothing, as it was not called: the machine is closed")
        with self._lock:
            if not self._settled.wait_for(lambda: id(one) not in self._closing, TEARDOWN_S):
                raise PrepFailed(slot.number, name, f"nothing yet: its teardown has not ended in {TEARDOWN_S:g} s")
        try:
            self._prepare(one)
        except Exception as error:  # an object is foreign code
            raise PrepFailed(slot.number, name, clean_text(f"{type(error).__name__}: {error}")) from error

    def _prepare(self, one: Any) -> None:
        for name in ("prep", "setup"):
            method = method_of(one, name)
            if method is not None:
                self._perform(method)
                return

    def _perform(self, method: Callable[[], Any]) -> None:
        if is_async(method):
            self._loop.run(method())
        else:
            method()

    @contextmanager
    def tried(self, slot: Slot) -> Iterator[None]:
        """Prepare what is in a slot on trial, and tear it down afterwards; one that is open stays as it is.

        Raises:
            PrepFailed: its ``prep`` raised.
        """
        with self.use():
            ours = is_object(slot.function) and id(slot.function) not in self._open
            if ours:
                self._prepare_for(slot)
            try:
                yield
            finally:
                if ours:
                    self._tear_down(slot.function)

    # --- users ---

    @contextmanager
    def use(self) -> Iterator[None]:
        """Whatever revision is read within stays whole until its end."""
        token = self.begin()
        try:
            yield
        finally:
            self.end(token)

    def begin(self) -> object:
        """Say that revisions read from now on are in use; `end` takes the token that is returned."""
        token = object()
        with self._lock:
            self._users[token] = self._epoch
        return token

    def end(self, token: object) -> None:
        """Say that what was begun is through."""
        with self._lock:
            self._users.pop(token, None)
            if self._retired:
                self._reap()

    # --- tearing down ---

    def _reap(self) -> None:
        """See to it that what is free is torn down, in a thread of its own. Under the lock."""
        if self._reaper is None and self._free():
            self._reaper = threading.Thread(target=self._tear_down_free, name="timbr teardown", daemon=True)
            self._reaper.start()

    def _free(self) -> list[tuple[int, Any]]:
        oldest = min(self._users.values(), default=self._epoch)
        return [entry for entry in self._retired if entry[0] < oldest]

    def _tear_down_free(self) -> None:
        while True:
            with self._lock:
                free = self._free()
                if not free:
                    self._reaper = None
                    self._settled.notify_all()
                    return
                gone = {id(one) for _, one in free}
                self._retired = [entry for entry in self._retired if id(entry[1]) not in gone]
                for _, one in free:
                    self._open.pop(id(one), None)
                    self._closing.add(id(one))
            for _, one in free:
                self._tear_down(one)
                with self._lock:
                    self._closing.discard(id(one))
                    self._settled.notify_all()

    def _tear_down(self, one: Any) -> None:
        method = method_of(one, "teardown")
        if method is None:
            return
        try:
            self._perform(method)
        except Exception as error:  # an object is foreign code
            name = type(one).__qualname__
            logger.exception("teardown of %s failed", name)
            self._on_failure(name, "teardown", clean_text(f"{type(error).__name__}: {error}"))

    def close(self) -> None:
        """Tear down all that is open; waits a bounded time for it. Idempotent."""
        with self._lock:
            self._closed = True
            retired = {id(one) for _, one in self._retired}
            self._retire([one for key, one in self._open.items() if key not in retired])
            if not self._settled.wait_for(lambda: self._reaper is None, TEARDOWN_S):
                logger.warning("an object is still being torn down after %.0f s; it goes on by itself", TEARDOWN_S)
