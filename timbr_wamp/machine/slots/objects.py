"""Objects in slots: prepared before they are used, torn down when nothing uses them any more.

An object is open while the newest revision has it in a slot, while a message under way was started with
a revision that has it, or while a change of the slots is about to need it. Whoever processes messages
says by `Objects.begin`, `Objects.keep` and `Objects.end` which revisions are in use (the idea of
read-copy-update, https://www.kernel.org/doc/html/latest/RCU/whatisRCU.html).

No lock is held while an object's own code runs: a ``prep`` may change slots itself, and a slow one
holds up nobody else's change.
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

#: `Objects.close` waits so long for objects that are being torn down, and a change for one that another
#: change prepares, or that is being torn down.
WAIT_S = 5.0

#: Ids of the objects whose ``prep`` runs in this context, also in the event loop.
_preparing: ContextVar[tuple[int, ...]] = ContextVar("timbr_preparing", default=())


class _Managed:
    """One object that was prepared, or is just being prepared or torn down."""

    __slots__ = ("holders", "object", "out_since", "phase", "wanted")

    def __init__(self, one: Any, holder: Admission) -> None:
        #: Keeps it alive, so that its id stays its own.
        self.object = one
        #: ``preparing``, ``open`` or ``closing``.
        self.phase = "preparing"
        #: Changes under way that need it.
        self.holders: set[Admission] = {holder}
        #: The newest revision has it.
        self.wanted = False
        #: The revision that took it out of the slots; None: no revision ever had it, or the newest has.
        self.out_since: int | None = None


class Use:
    """Somebody who processes messages; see `Objects.begin`."""

    __slots__ = ("oldest",)

    def __init__(self, oldest: int) -> None:
        #: No revision before this one is in use.
        self.oldest = oldest


class Admission:
    """One change of the slots: what it needs is prepared, and held until it is committed or cancelled."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def prepare(self, revision: Revision) -> None:
        """Prepare the revision's objects that are not open. May be called again, with a later draft.

        Runs ``prep`` in the calling thread, or in the event loop if it is ``async def``. May take long.

        Raises:
            PrepFailed: one of them raised, or is not to be had in time.
        """
        for slot in revision.slots:
            if slot.kind == "object":
                self._objects.hold(self, slot)

    def commit(self, revision: Revision) -> None:
        """Say that the revision is the newest one; what it does not have is let go."""
        self._objects.commit(self, revision)

    def cancel(self) -> None:
        """Let go of what was prepared; what nobody else needs is torn down before this returns."""
        self._objects.cancel(self)


class Objects:
    """The open objects of one machine. Any thread.

    Args:
        loop: where ``async def`` prep and teardown run, beside their steps.
        on_failure: told ``(name of the object, verb, error)`` of a teardown that raised.
    """

    def __init__(self, loop: CoroutineRunner, on_failure: Callable[[str, str, str], None]) -> None:
        self._loop, self._on_failure = loop, on_failure
        self._newest = 0
        self._closed = False
        self.after_fork_in_child()
        survive_forks(self)

    def after_fork_in_child(self) -> None:
        """Know of no object: what is open belongs to the parent, which tears it down."""
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._managed: dict[int, _Managed] = {}
        self._uses: set[Use] = set()

    # --- changes ---

    def admission(self) -> Admission:
        """Return what prepares the objects of one change."""
        return Admission(self)

    def hold(self, holder: Admission, slot: Slot) -> None:
        """Prepare the object of a slot unless it is open, and keep it open for ``holder``; see `Admission.prepare`."""
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
        """Call a method; await it in the event loop if it gives something to await."""
        with delivered():
            result = method()
            if not is_unawaited(result):
                return
            try:
                error = self._loop.run(_outcome(result))
            except BaseException:
                with contextlib.suppress(Exception):  # it was started, and does not end by this
                    result.close()  # or Python warns that nobody awaited it
                raise
            if error is not None:
                raise error

    def commit(self, holder: Admission, revision: Revision) -> None:
        """Say that ``revision`` is the newest one. In the order of the revisions."""
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

    def cancel(self, holder: Admission) -> None:
        """Let go of what ``holder`` holds; see `Admission.cancel`."""
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
        """Prepare what is in a slot on trial, and tear it down afterwards; one that is open stays as it is.

        Raises:
            PrepFailed: its ``prep`` raised.
        """
        admission = self.admission()
        try:
            if slot.kind == "object":
                self.hold(admission, slot)
            yield
        finally:
            admission.cancel()

    # --- uses ---

    @contextmanager
    def use(self) -> Iterator[None]:
        """Whatever revision is read within stays whole until its end."""
        use = self.begin()
        try:
            yield
        finally:
            self.end(use)

    def begin(self) -> Use:
        """Say that revisions that are read from now on are in use, until `keep` or `end` says otherwise."""
        with self._lock:
            use = Use(self._newest)
            self._uses.add(use)
            return use

    def keep(self, use: Use, oldest: int) -> None:
        """Say that no revision before number ``oldest`` is in use any more."""
        if oldest > use.oldest:
            with self._lock:
                use.oldest = min(oldest, self._newest)
                self._reap()

    def end(self, use: Use) -> None:
        """Say that none of the revisions is in use any more."""
        with self._lock:
            self._uses.discard(use)
            self._reap()

    # --- tearing down ---

    def _reap(self) -> None:
        """Have what nobody uses torn down, in a thread of its own: one that hangs holds up no other. Under the lock."""
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
                logger.warning("an object is still being torn down after %.0f s; its thread goes on", WAIT_S)

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
