"""Objects in slots: prepared before they are used, torn down when nothing uses them any more.

An object is open while the newest revision has it in a slot, while a message under way was started with
a revision that has it, or while a change of the slots is about to need it. Code that processes messages
calls `Objects.begin`, `Objects.release_older` and `Objects.end` to say which revisions are in use (as in
read-copy-update, https://www.kernel.org/doc/html/latest/RCU/whatisRCU.html).

No lock is held while an object's own code runs: a ``prep`` may change slots itself, and a slow one
delays no other change.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from timbr_wamp.errors import PrepFailed, described, is_users_interrupt
from timbr_wamp.machine.forks import survive_forks
from timbr_wamp.machine.interrupts import delivered, wait_for
from timbr_wamp.machine.isolation import call_isolated
from timbr_wamp.machine.protocols import CoroutineRunner
from timbr_wamp.machine.slots.callables import is_unawaited, method_of
from timbr_wamp.machine.slots.table import Revision, Slot

logger = logging.getLogger(__name__)

#: Seconds that `Objects.close` waits for teardowns, and a change for an object that is being prepared by another
#: change or torn down.
WAIT_S = 5.0

#: Ids of the objects whose ``prep`` runs in this context, also in the event loop.
_preparing: ContextVar[tuple[int, ...]] = ContextVar("timbr_preparing", default=())


class _Managed:
    """One object that is being prepared, is open, or is being torn down."""

    __slots__ = ("holders", "object", "out_since", "phase", "wanted")

    def __init__(self, one: Any, holder: ObjectPreparation) -> None:
        #: Keeps it alive, so that its id is not reused.
        self.object = one
        #: ``preparing``, ``open`` or ``closing``.
        self.phase = "preparing"
        #: Changes under way that need it.
        self.holders: set[ObjectPreparation] = {holder}
        #: The newest revision has it.
        self.wanted = False
        #: The revision that removed it from the slots; None: no revision ever had it, or the newest has.
        self.out_since: int | None = None


class RevisionsInUse:
    """The revisions that code which processes messages may still use; see `Objects.begin`."""

    __slots__ = ("oldest",)

    def __init__(self, oldest: int) -> None:
        #: No revision before this one is in use.
        self.oldest = oldest


class ObjectPreparation:
    """One change of the slots: prepares its objects, and holds them until it is committed or cancelled."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def prepare(self, revision: Revision) -> None:
        """Prepare the revision's objects that are not open. May be called again, with a later draft.

        Runs ``prep`` in the calling thread, or in the event loop if it is ``async def``. May take long.

        Raises:
            PrepFailed: one of them raised, or was not available in time.
        """
        for slot in revision.slots:
            if slot.kind == "object":
                self._objects.hold(self, slot)

    def commit(self, revision: Revision) -> None:
        """Note that the revision is the newest one; objects that it does not have are released."""
        self._objects.commit(self, revision)

    def cancel(self) -> None:
        """Release what was prepared; objects without another holder are torn down before this returns."""
        self._objects.cancel(self)


class Objects:
    """The open objects of one machine. Any thread.

    Args:
        loop: where ``async def`` prep and teardown run, beside their steps.
        on_failure: called ``(name of the object, verb, error)`` for a teardown that raised.
    """

    def __init__(self, loop: CoroutineRunner, on_failure: Callable[[str, str, str], None]) -> None:
        self._loop, self._on_failure = loop, on_failure
        self._newest = 0
        self._closed = False
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Forget all objects: they belong to the parent, which tears them down."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._managed: dict[int, _Managed] = {}
        self._uses: set[RevisionsInUse] = set()

    # --- changes ---

    def preparation(self) -> ObjectPreparation:
        """Return the preparation of one change."""
        return ObjectPreparation(self)

    def hold(self, holder: ObjectPreparation, slot: Slot) -> None:
        """Prepare the object of a slot unless it is open, and keep it open for ``holder``."""
        one: Any = slot.function
        name = _name_of(one)
        with self._changed:
            managed = self._managed.get(id(one))
            if managed is not None and managed.phase != "open":
                if id(one) in _preparing.get():
                    raise PrepFailed(slot.number, name, "nothing, as it runs already: it puts its own object in a slot")
                wait_for(self._changed, lambda: self._ready(id(one)), WAIT_S)
                managed = self._managed.get(id(one))
            if managed is not None and managed.phase != "open":
                what = "another prep of it" if managed.phase == "preparing" else "its teardown"
                raise PrepFailed(slot.number, name, f"nothing yet: {what} has not ended in {WAIT_S:g} s")
            if self._closed:
                raise PrepFailed(slot.number, name, "nothing, as it was not called: the machine is closed")
            if managed is not None:
                managed.holders.add(holder)
                return
            managed = self._managed[id(one)] = _Managed(one, holder)
        self._prepare(managed, slot.number)

    def _ready(self, key: int) -> bool:
        managed = self._managed.get(key)
        return managed is None or managed.phase == "open"

    def _prepare(self, managed: _Managed, slot: int) -> None:
        one = managed.object
        token = _preparing.set((*_preparing.get(), id(one)))
        try:
            method = method_of(one, "prep") or method_of(one, "setup")
            if method is not None:
                self._perform(method)
        except BaseException as error:  # an object is foreign code
            with self._changed:
                self._managed.pop(id(one), None)
                self._changed.notify_all()
            if is_users_interrupt(error):
                raise
            raise PrepFailed(slot, _name_of(one), described(error)) from error
        finally:
            _preparing.reset(token)
        with self._changed:
            managed.phase = "open"
            self._changed.notify_all()
            closed = self._closed
        if closed:
            raise PrepFailed(slot, _name_of(one), "nothing, but the machine was closed meanwhile")

    def _perform(self, method: Callable[[], Any]) -> None:
        """Call a method; await its result in the event loop if it is awaitable."""
        with delivered():
            result = method()
            if not is_unawaited(result):
                return
            try:
                error = self._loop.run(_outcome(result))
            except BaseException:
                with contextlib.suppress(Exception):  # it was started and ignores this
                    result.close()  # else Python warns that it was never awaited
                raise
            if error is not None:
                raise error

    def commit(self, holder: ObjectPreparation, revision: Revision) -> None:
        """Note that ``revision`` is the newest one. Called in the order of the revisions."""
        wanted = {id(slot.function) for slot in revision.slots if slot.function is not None}
        with self._changed:
            self._newest = revision.number
            for key, managed in self._managed.items():
                held = holder in managed.holders
                managed.holders.discard(holder)
                unused = held and not managed.holders and managed.out_since is None  # an earlier draft needed it
                if key in wanted and not self._closed:
                    managed.wanted, managed.out_since = True, None
                elif managed.wanted or key in wanted or unused:
                    managed.wanted, managed.out_since = False, revision.number
            self._reap()

    def cancel(self, holder: ObjectPreparation) -> None:
        """Release what ``holder`` holds; objects without another holder are torn down before this returns."""
        unused: list[_Managed] = []
        with self._changed:
            for managed in self._managed.values():
                if holder in managed.holders:
                    managed.holders.discard(holder)
                    if not managed.holders and not managed.wanted and managed.out_since is None:
                        managed.phase = "closing"
                        unused.append(managed)
            self._reap()
        self._tear_down(unused)

    @contextmanager
    def tried(self, slot: Slot) -> Iterator[None]:
        """Prepare the object of a slot on trial, and tear it down afterwards, unless it was open before.

        Raises:
            PrepFailed: its ``prep`` raised.
        """
        preparation = self.preparation()
        try:
            if slot.kind == "object":
                self.hold(preparation, slot)
            yield
        finally:
            preparation.cancel()

    # --- uses ---

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the objects of every revision that is read within the block open until its end."""
        use = self.begin()
        try:
            yield
        finally:
            self.end(use)

    def begin(self) -> RevisionsInUse:
        """Note that the newest and later revisions are in use, until `release_older` or `end`."""
        with self._lock:
            use = RevisionsInUse(self._newest)
            self._uses.add(use)
            return use

    def release_older(self, use: RevisionsInUse, oldest: int) -> None:
        """Note that revisions before number ``oldest`` are no longer in use."""
        if oldest > use.oldest:
            with self._lock:
                use.oldest = min(oldest, self._newest)
                self._reap()

    def end(self, use: RevisionsInUse) -> None:
        """Note that this use has ended."""
        with self._lock:
            self._uses.discard(use)
            self._reap()

    # --- tearing down ---

    def _reap(self) -> None:
        """Tear down unused objects in a new thread, so that one that hangs delays no other. Under the lock."""
        if not self._managed:
            return
        in_use = min((use.oldest for use in self._uses), default=None)
        free = [
            managed
            for managed in self._managed.values()
            if managed.phase == "open" and not managed.holders and managed.out_since is not None
            if in_use is None or managed.out_since <= in_use
        ]
        for managed in free:
            managed.phase = "closing"
        if free:
            threading.Thread(target=self._tear_down, args=(free,), name="timbr teardown", daemon=True).start()

    def _tear_down(self, several: list[_Managed]) -> None:
        for managed in several:
            try:
                self._tear_down_one(managed.object)
            finally:
                with self._changed:
                    self._managed.pop(id(managed.object), None)
                    self._changed.notify_all()

    def _tear_down_one(self, one: Any) -> None:
        method = method_of(one, "teardown")
        if method is None:
            return

        def failed(error: BaseException) -> None:
            logger.error("teardown of %s failed", _name_of(one), exc_info=error)
            self._on_failure(_name_of(one), "teardown", described(error))

        call_isolated(self._perform, method, on_failure=failed)

    def close(self) -> None:
        """Tear down all that is open and not in use; waits a bounded time for it. Idempotent."""
        with self._changed:
            self._closed = True
            for managed in self._managed.values():
                if managed.wanted:
                    managed.wanted, managed.out_since = False, self._newest + 1
            self._reap()
            closing = [managed for managed in self._managed.values() if managed.phase == "closing"]
            if not self._changed.wait_for(lambda: not any(map(self._is_managed, closing)), WAIT_S):
                logger.warning("an object is still being torn down after %.0f s; its thread continues", WAIT_S)

    def _is_managed(self, managed: _Managed) -> bool:
        return self._managed.get(id(managed.object)) is managed


async def _outcome(awaitable: Any) -> BaseException | None:
    """Await; return what was raised: a SystemExit would end the event loop."""
    try:
        await awaitable
    except Exception as error:
        return error
    except (SystemExit, KeyboardInterrupt) as error:
        return error
    return None


def _name_of(one: object) -> str:
    return type.__dict__["__qualname__"].__get__(type(one))  # type: ignore[no-any-return]
