"""`Connection`: a wamp session that heals itself. For one asyncio loop; clients and components use it.

Why the transports are driven here and not by autobahn's ``Component``: its back-off either never
resets or reconnects in a hot loop, a goodbye ``wamp.close.normal`` from the router ends it for ever,
and calls under way never end when the transport is lost. A loop of our own over `SafeSession` is
less code than working around that.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from autobahn.wamp.types import CallOptions, CallResult, PublishOptions

from timbr_wamp.client.backoff import Backoff
from timbr_wamp.client.session import FATAL_REFUSALS, JoinRefused, SafeSession, our_error, split_token
from timbr_wamp.client.subscriptions import CallInfo, Endpoint, EventInfo, Handler, Registration, Subscription, Topics
from timbr_wamp.client.transport import is_local, open_transport
from timbr_wamp.errors import (
    CallTimeout,
    ConnectionLost,
    InvalidName,
    NotConnected,
    TimbrError,
    TokenRejected,
    TokenRevoked,
)

__all__ = ["CallInfo", "Connection", "EventInfo", "Registration", "Subscription"]

logger = logging.getLogger(__name__)
# Without a handler of the application, Python would write our warnings to stderr: into the middle of
# a notebook, and from another thread.
logging.getLogger("timbr_wamp").addHandler(logging.NullHandler())

#: Longest wait between two attempts to connect: to this computer, and to another one.
RETRY_CAP_LOCAL_S, RETRY_CAP_S = 2.0, 10.0
#: A session that lasted so long was a good one: the next waits begin short again.
STABLE_S = 10.0
#: Connect, handshake, welcome.
JOIN_TIMEOUT_S = 8.0
#: Goodbye, and the router's.
LEAVE_TIMEOUT_S = 2.0
#: A session that is ending is looked at again after so long.
ENDING_PAUSE_S = 0.01

_URI = re.compile(r"[^\s.#]+(\.[^\s.#]+)*")


@dataclass(frozen=True, slots=True)
class _Fatal(Exception):
    """No further attempt makes sense."""

    error: TimbrError


class Connection:
    """One wamp session that heals itself. All methods: the loop's own thread only.

    After the link dropped it is opened again with growing waits, registrations and subscriptions
    are made again, then ``on_join`` is awaited. Calls under way fail at once with `ConnectionLost`.
    Two ends are final: the router rejects the token, or it is revoked; see `failed`.
    """

    def __init__(
        self,
        url: str,
        realm: str,
        token: str,
        *,
        on_join: Callable[[], Awaitable[None]] | None = None,
        on_leave: Callable[[str], None] | None = None,
    ) -> None:
        self.url = url
        self._realm = realm
        self._name, self._secret = split_token(token)
        self._on_join, self._on_leave = on_join, on_leave
        self._retry_cap_s = RETRY_CAP_LOCAL_S if is_local(url) else RETRY_CAP_S
        self._backoff = Backoff(self._retry_cap_s)
        #: Until then others may still be on their way back to the router; loop time.
        self._others_due_at = 0.0
        self._session: SafeSession | None = None
        self._links = Topics()
        self._supervisor: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self._finished = asyncio.Event()
        self._problem = "not opened yet"
        #: The error that ended the connection for good; None while it lives or after `close`.
        self.failed: TimbrError | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.url} as {self._name}{'' if self.joined else f', {self._problem}'}>"

    # --- state ------------------------------------------------------------------------------

    @property
    def joined(self) -> bool:
        """There is a wamp session, with everything registered and subscribed."""
        return self._joined.is_set() and self._attached() is not None

    def _attached(self) -> SafeSession | None:
        """Return the session if it may be used: one that is about to end takes nothing more."""
        return self._session if self._session is not None and self._session.is_attached() else None

    @property
    def session_id(self) -> int | None:
        """Id of the present wamp session; None without one."""
        return self._session.session_id if self._session is not None else None

    @property
    def authid(self) -> str | None:
        """Name behind the token, as the router knows it; None without a wamp session."""
        return self._session.authid if self._session is not None else None

    @property
    def role(self) -> str | None:
        """Role that the router gave; None without a wamp session."""
        return self._session.authrole if self._session is not None else None

    @property
    def settling(self) -> bool:
        """The link came back just now; who lost theirs with it may still be on the way."""
        return asyncio.get_running_loop().time() < self._others_due_at

    def buffered_bytes(self) -> int:
        """Return how much waits in the transport's write buffer, for pacing; 0 without a link."""
        return self._session.buffered_bytes() if self._session is not None else 0

    # --- life -------------------------------------------------------------------------------

    async def open(self, timeout_s: float = 10.0) -> None:
        """Connect and join; try again until ``timeout_s`` is over.

        Raises:
            TokenRejected: the router does not know the token.
            NotConnected: no router answered in time. The connection is closed then.
        """
        if self._supervisor is None:
            self._finished.clear()
            self._supervisor = asyncio.create_task(self._supervise(), name=f"wamp {self._name}")
        try:
            await self.wait_joined(timeout_s)
        except BaseException:
            await self.close()
            raise

    async def wait_joined(self, timeout_s: float) -> None:
        """Wait until there is a wamp session.

        Raises:
            NotConnected: there is none after ``timeout_s``, or the connection was closed.
            TokenRejected, TokenRevoked: there never will be one.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.joined and not self._finished.is_set():
                    if self._joined.is_set():  # the session is ending, and its end not noticed yet
                        await asyncio.sleep(ENDING_PAUSE_S)
                    else:
                        await _first_of(self._joined, self._finished)
        except TimeoutError:
            raise self._absent() from None
        if not self.joined:
            raise self._absent()

    async def wait_finished(self) -> TimbrError | None:
        """Wait until the connection is closed; return the error that ended it, if one did."""
        await self._finished.wait()
        return self.failed

    async def close(self) -> None:
        """Say goodbye and close. Idempotent; takes at most some seconds."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor], timeout=2 * LEAVE_TIMEOUT_S)
        if self.failed is None:
            self._problem = "closed"
        self._finished.set()

    def _absent(self) -> TimbrError:
        if self.failed is not None:
            return type(self.failed)(*self.failed.args)
        return NotConnected(self.url, self._problem)

    # --- calls and events -------------------------------------------------------------------

    async def call(
        self,
        uri: str,
        /,
        *args: Any,
        timeout_s: float | None = 30.0,
        on_progress: Callable[[Any], None] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a procedure and return its result; cancelling this cancels the call.

        Args:
            timeout_s: None waits as long as the link lives.
            on_progress: gets each progressive result; a plain function.

        Raises:
            NotConnected: there is no wamp session now.
            ConnectionLost: the link dropped, ours or the callee's.
            CallTimeout: no answer in time; the call was cancelled.
            PayloadTooLarge: nothing was sent.
            NotAuthorized, NoSuchProcedure: the router says so.
            TimbrError: what the callee raised.
        """
        session = self._attached()
        if session is None:
            raise self._absent()
        if on_progress is not None:
            kwargs["options"] = CallOptions(on_progress=_guarded(on_progress))
        try:
            async with asyncio.timeout(timeout_s):
                result = await session.call(uri, *args, **kwargs)
        except TimeoutError:
            raise CallTimeout(uri, timeout_s or 0.0) from None
        except Exception as error:  # autobahn's errors have no common base
            raise our_error("call", uri, error) from None
        return list(result.results) if isinstance(result, CallResult) else result

    async def subscribe(self, topic: str, handler: Handler, *, get_retained: bool = False) -> Subscription:
        """Call ``handler(*args, details=EventInfo, **kwargs)`` for each event; return what undoes it.

        The handler is a plain function and must not block. Without a link the subscription is made
        as soon as there is one, as it is after each reconnection. With ``get_retained`` the retained
        event comes then, too: at least once each time.

        Raises:
            NotAuthorized: the role may not subscribe to it.
            CallTimeout: the router gave no answer.
        """
        return await self._links.subscribe(self._attached(), _checked_uri(topic), handler, get_retained)

    async def register(self, uri: str, endpoint: Endpoint) -> Registration:
        """Answer calls with ``await endpoint(args, kwargs, CallInfo)``; return what undoes it.

        Takes the procedure over from whoever had it. Without a link it is registered as soon as
        there is one, as it is after each reconnection. What the endpoint raises travels as our own
        errors do; a result over the wire's limit becomes `PayloadTooLarge` for the caller.

        Raises:
            NotAuthorized: the role may not register it.
            InvalidArgument: it is registered here already.
            CallTimeout: the router gave no answer.
        """
        return await self._links.register(self._attached(), _checked_uri(uri), endpoint)

    def publish(self, topic: str, /, *args: Any, retain: bool = False, **kwargs: Any) -> bool:
        """Send an event; return False when there is no wamp session. Never blocks.

        Whether the router took it is not known: a publication that is not allowed vanishes.

        Raises:
            PayloadTooLarge: nothing was sent.
            InvalidArgument: it holds what msgpack cannot carry.
        """
        session = self._attached()
        if session is None:
            return False
        if retain:
            kwargs["options"] = PublishOptions(retain=True)
        try:
            session.publish(topic, *args, **kwargs)
        except Exception as error:  # autobahn's errors have no common base
            ours = our_error("publish", topic, error)
            if isinstance(ours, ConnectionLost):
                return False
            raise ours from None
        return True

    async def publish_acknowledged(
        self, topic: str, /, *args: Any, retain: bool = False, timeout_s: float = 10.0, **kwargs: Any
    ) -> None:
        """Send an event and wait until the router has it.

        Raises:
            NotConnected, ConnectionLost, CallTimeout, NotAuthorized, PayloadTooLarge, InvalidArgument.
        """
        session = self._attached()
        if session is None:
            raise self._absent()
        options = PublishOptions(acknowledge=True, retain=retain or None)
        try:
            async with asyncio.timeout(timeout_s):
                await session.publish(topic, *args, options=options, **kwargs)
        except TimeoutError:
            raise CallTimeout(topic, timeout_s) from None
        except Exception as error:  # autobahn's errors have no common base
            raise our_error("publish", topic, error) from None

    # --- the supervisor ---------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep a session, until one of the two final ends or `close`."""
        try:
            while True:
                try:
                    await self._one_session()
                except _Fatal as fatal:
                    self.failed, self._problem = fatal.error, str(fatal.error)
                    logger.warning("%s: %s", self.url, fatal.error)
                    return
                except (OSError, TimeoutError, JoinRefused) as error:
                    self._problem = _reason(error)
                wait_s = self._backoff.next_s()
                logger.info("%s: %s; next attempt in %.1f s", self.url, self._problem, wait_s)
                await asyncio.sleep(wait_s)
        finally:
            self._finished.set()

    async def _one_session(self) -> None:
        """Join, restore, and return when the session has ended."""
        session = SafeSession(self._realm, self._name, self._secret)
        loop = asyncio.get_running_loop()
        try:
            await self._join(session)
            joined_at = loop.time()
            if self._others_due_at:
                self._others_due_at = joined_at + self._retry_cap_s + JOIN_TIMEOUT_S
            self._session = session
            await self._links.restore(session)
            await self._announce(session)
            await asyncio.wait([session.ended])
            self._problem = session.ended.result()
            if loop.time() - joined_at >= STABLE_S:
                self._backoff.reset()
            if self._problem == TokenRevoked.uri:
                raise _Fatal(TokenRevoked(self._name))
        finally:
            if self._session is session:
                self._others_due_at = math.inf
            await self._dismiss(session)

    async def _join(self, session: SafeSession) -> None:
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await open_transport(self.url, session)
                await session.joined
        except JoinRefused as refused:
            if refused.reason in FATAL_REFUSALS:
                raise _Fatal(TokenRejected(self._name, refused.message or refused.reason)) from None
            raise
        except TimbrError as error:  # a URL that no attempt will make better
            raise _Fatal(error) from None
        except TimeoutError:
            raise TimeoutError(f"no answer in {JOIN_TIMEOUT_S:g} s") from None

    async def _announce(self, session: SafeSession) -> None:
        """Await ``on_join``, but no longer than the session lasts; then say that we are joined."""
        if self._on_join is not None and not session.ended.done():
            task = asyncio.create_task(_logged(self._on_join))
            either: list[asyncio.Future[Any]] = [task, session.ended]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                task.cancel()
            await asyncio.wait([task])
        if not session.ended.done():
            self._joined.set()
            logger.info("joined %s as %s (%s)", self.url, session.authid, session.authrole)

    async def _dismiss(self, session: SafeSession) -> None:
        """Forget the session, and close it if it still lives."""
        was_ours, self._session = self._session is session, None
        self._joined.clear()
        if session.is_attached():
            session.leave()
            await asyncio.wait([session.ended], timeout=LEAVE_TIMEOUT_S)
        session.drop()
        await session.end_invocations(LEAVE_TIMEOUT_S)
        if was_ours and self._on_leave is not None:
            reason = session.ended.result() if session.ended.done() else "closed"
            try:
                self._on_leave(reason)
            except Exception:  # a callback: foreign code
                logger.exception("on_leave failed")


def _guarded(on_progress: Callable[[Any], None]) -> Callable[..., None]:
    """Return ``on_progress`` for autobahn: one value, and its errors end here."""

    def take(*args: Any, **kwargs: Any) -> None:
        try:
            on_progress(args[0] if len(args) == 1 else list(args))
        except Exception:  # a callback: foreign code
            logger.exception("on_progress failed")

    return take


async def _first_of(*events: asyncio.Event) -> None:
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _logged(on_join: Callable[[], Awaitable[None]]) -> None:
    try:
        await on_join()
    except Exception:  # a callback: foreign code
        logger.exception("on_join failed")


def _checked_uri(uri: str) -> str:
    # Crossbar answers the registration of an invalid URI by dropping the whole connection.
    if not _URI.fullmatch(uri):
        raise InvalidName(uri, "a WAMP URI: components without spaces or #, joined by dots")
    return uri


def _reason(error: Exception) -> str:
    if isinstance(error, JoinRefused):
        return error.message or error.reason
    return str(error) or type(error).__name__
