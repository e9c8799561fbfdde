"""`Connection`: a wamp session that reconnects automatically. For one asyncio loop; clients and components use it.

It does not use autobahn's ``Component``, for three reasons: its backoff either never resets or
reconnects in a hot loop, a goodbye ``wamp.close.normal`` from the router ends it for good, and calls
in progress never end when the transport is lost. A loop over `SafeSession` is less code than working
around that.
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
from timbr_wamp.client.reasons import reason_of, where, wrong_address
from timbr_wamp.client.session import (
    FATAL_REFUSALS,
    NO_TOKEN,
    JoinRefused,
    SafeSession,
    split_token,
    to_timbr_error,
)
from timbr_wamp.client.subscriptions import (
    CallInfo,
    Endpoint,
    EventInfo,
    Handler,
    Registration,
    Several,
    Subscription,
    Subscriptions,
)
from timbr_wamp.client.tasks import as_timbr_error, first_of
from timbr_wamp.client.transport import is_local, open_transport
from timbr_wamp.contract.lookup import needed_role
from timbr_wamp.errors import (
    CallTimeout,
    ConnectionLost,
    InvalidName,
    InvalidToken,
    NotAuthorized,
    NotConnected,
    TimbrError,
    TokenRejected,
    TokenRevoked,
)
from timbr_wamp.names import checked_realm
from timbr_wamp.settings import TOKENS_RULE

__all__ = ["CallInfo", "Connection", "EventInfo", "Registration", "Several", "Subscription"]

logger = logging.getLogger(__name__)
# If the application configures no logging, Python writes warnings to stderr, which in a notebook would
# appear under the wrong cell, since they come from another thread.
logging.getLogger("timbr_wamp").addHandler(logging.NullHandler())

#: Longest wait between two attempts to connect to a router on this computer, and on another one.
RETRY_CAP_LOCAL_S, RETRY_CAP_S = 2.0, 10.0
#: A session that lasted this long resets the backoff.
STABLE_S = 10.0
#: Timeout for connecting, the handshake and the router's WELCOME.
JOIN_TIMEOUT_S = 8.0
#: Timeout for the exchange of GOODBYE messages.
LEAVE_TIMEOUT_S = 2.0
#: Events are not sent while so many bytes wait to be sent; calls wait at `session.SEND_BUFFER_BYTES`.
SEND_LIMIT_BYTES = 16 * 1024 * 1024
#: Poll interval while a session is ending.
ENDING_PAUSE_S = 0.01

_URI = re.compile(r"[^\s.#]+(\.[^\s.#]+)*")


@dataclass(frozen=True, slots=True)
class _PermanentFailure(Exception):
    """An error that further attempts to connect cannot fix."""

    error: TimbrError


class Connection:
    """A wamp session that reconnects automatically. All methods: the loop's own thread only.

    When the connection drops, calls in progress fail at once with `ConnectionLost`, and it reconnects
    with a backoff. After each (re)connection it restores registrations and subscriptions and then
    awaits ``on_join``. It does not reconnect after the router rejected or revoked the token; see `failed`.
    """

    def __init__(
        self,
        url: str,
        realm: str,
        token: str | None,
        *,
        on_join: Callable[[], Awaitable[None]] | None = None,
        on_leave: Callable[[str], None] | None = None,
    ) -> None:
        self.url = url
        self._realm = checked_realm(realm)
        self._credentials = None if token is None else split_token(token)
        self._name = "nobody" if self._credentials is None else self._credentials[0]
        self._on_join, self._on_leave = on_join, on_leave
        self._retry_cap_s = RETRY_CAP_LOCAL_S if is_local(url) else RETRY_CAP_S
        self._backoff = Backoff(self._retry_cap_s)
        #: Loop time until which other clients of the router may still be reconnecting.
        self._peers_back_at = 0.0
        self._session: SafeSession | None = None
        self._subscriptions = Subscriptions(self._failed_unexpectedly)
        self._supervisor: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self._finished = asyncio.Event()
        self._problem = "not opened yet"
        #: It has joined before. A realm that was there may come back; one that never was is a mistake.
        self._has_joined = False
        #: A router that is not there may come; see `open`.
        self._waits = True
        #: Called when there is a session again, and with the reason when it was lost. Must not block or fail.
        self.link_listeners: set[Callable[[bool, str], None]] = set()
        #: How often it joined again; calls without an answer; calls that waited for room in the transport's buffer.
        self.reconnections = self.calls = self.paced = 0
        #: Events that were not sent, because the router did not read.
        self.refused = 0
        #: The error that ended the connection for good; None while it is open and after `close`.
        self.failed: TimbrError | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.url} as {self._name}{'' if self.joined else f', {self._problem}'}>"

    # --- state ------------------------------------------------------------------------------

    @property
    def joined(self) -> bool:
        """There is a wamp session, with all registrations and subscriptions."""
        return self._joined.is_set() and self._attached() is not None

    def _attached(self) -> SafeSession | None:
        """Return the session if it can be used; None if there is none or it is about to end."""
        return self._session if self._session is not None and self._session.is_attached() else None

    @property
    def session_id(self) -> int | None:
        """Id of the current wamp session; None without one."""
        return self._session.session_id if self._session is not None else None

    @property
    def authid(self) -> str | None:
        """Name of the token, as reported by the router; None without a wamp session."""
        return self._session.authid if self._session is not None else None

    @property
    def role(self) -> str | None:
        """Role assigned by the router; None without a wamp session."""
        return self._session.authrole if self._session is not None else None

    @property
    def recently_reconnected(self) -> bool:
        """It reconnected a short time ago, so other clients of the router may still be reconnecting."""
        return asyncio.get_running_loop().time() < self._peers_back_at

    def buffered_bytes(self) -> int:
        """Return the size of the transport's write buffer, for flow control; 0 without a connection."""
        return self._session.buffered_bytes() if self._session is not None else 0

    # --- opening and closing -------------------------------------------------------------------------------

    async def open(self, timeout_s: float = 10.0, *, wait: bool = True) -> None:
        """Connect and join; retry until ``timeout_s`` has passed.

        Without ``wait`` it does not retry when nothing listens at the address. Once joined, it always does.

        Raises:
            InvalidToken: a router answers, and there is no token for it.
            TokenRejected: the router does not know the token.
            NotConnected: no router answered in time, or it has no such realm; the connection is closed.
        """
        self._waits = wait
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
            NotConnected: there is none within ``timeout_s``, or the connection was closed.
            TokenRejected, TokenRevoked: the connection failed for good.
        """
        try:
            async with asyncio.timeout(timeout_s):
                while not self.joined and not self._finished.is_set():
                    if self._joined.is_set():  # the session is ending; _supervise has not noticed yet
                        await asyncio.sleep(ENDING_PAUSE_S)
                    else:
                        await first_of(self._joined.wait(), self._finished.wait())
        except TimeoutError:
            raise self._not_connected() from None
        if not self.joined:
            raise self._not_connected()

    async def wait_finished(self) -> TimbrError | None:
        """Wait until the connection is closed; return the error that ended it, or None."""
        await self._finished.wait()
        return self.failed

    async def close(self) -> None:
        """Leave the realm and close the connection. Idempotent; takes at most some seconds."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            supervisor.cancel()
            await asyncio.wait([supervisor], timeout=2 * LEAVE_TIMEOUT_S)
        await self._subscriptions.close()
        if self.failed is None:
            self._problem = "closed"
        self._finished.set()

    def _not_connected(self) -> TimbrError:
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
        on_progress: Callable[[Any], object] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Call a procedure and return its result. Cancelling the coroutine cancels the call.

        Args:
            timeout_s: timeout in seconds; None means no limit other than the connection.
            on_progress: a plain function that is called with each progressive result.

        Raises:
            NotConnected: there is no wamp session.
            ConnectionLost: this connection or the callee's dropped.
            CallTimeout: no answer in time; the call was cancelled.
            PayloadTooLarge: the arguments are too large; nothing was sent.
            NotAuthorized, NoSuchProcedure: as the router reports.
            TimbrError: the error that the callee raised.
        """
        session = self._attached()
        if session is None:
            raise self._not_connected()
        if on_progress is not None:
            kwargs["options"] = CallOptions(on_progress=_progress_handler(on_progress))
        self.calls += 1
        try:
            async with asyncio.timeout(timeout_s):
                if not session.writable:
                    self.paced += 1
                    await session.wait_writable()
                result = await session.call(uri, *args, **kwargs)
        except TimeoutError:
            raise CallTimeout(uri, timeout_s or 0.0) from None
        except Exception as error:  # autobahn's errors have no common base
            raise self._explained(to_timbr_error("call", uri, error)) from None
        finally:
            self.calls -= 1
        return list(result.results) if isinstance(result, CallResult) else result

    async def subscribe(self, topic: str, handler: Handler, *, get_retained: bool = False) -> Subscription:
        """Subscribe ``handler(*args, details=EventInfo, **kwargs)`` to a topic.

        The handler is a plain function and must not block. Without a session, the subscription is
        made when the connection joins; it is restored after each reconnection. With
        ``get_retained`` the handler gets the retained event at least once each time.

        Raises:
            NotAuthorized: the role may not subscribe to the topic.
            CallTimeout: the router did not answer.
        """
        try:
            return await self._subscriptions.subscribe(self._attached(), _checked_uri(topic), handler, get_retained)
        except NotAuthorized as error:
            raise self._explained(error) from None

    async def register(self, uri: str, endpoint: Endpoint) -> Registration:
        """Register a procedure that is answered with ``await endpoint(args, kwargs, CallInfo)``.

        Replaces a registration of another session. Without a session, it is registered when the
        connection joins; it is restored after each reconnection. Exceptions of the endpoint are
        sent by `timbr_wamp.errors.to_wire`. For a result that is too large the caller gets
        `PayloadTooLarge`.

        Raises:
            NotAuthorized: the role may not register the procedure.
            InvalidArgument: this connection already registered it.
            CallTimeout: the router did not answer.
        """
        try:
            return await self._subscriptions.register(self._attached(), _checked_uri(uri), endpoint)
        except NotAuthorized as error:
            raise self._explained(error) from None

    def _explained(self, error: TimbrError) -> TimbrError:
        """Return the error with what is known here: the router's address, the token's role and the one it takes."""
        if isinstance(error, ConnectionLost):
            return ConnectionLost(error.what, f"{self.url}: {error.reason}")
        if not isinstance(error, NotAuthorized) or error.role is not None:
            return error
        return NotAuthorized(error.action, error.name, self.role, needed_role(error.action, error.name))

    def publish(self, topic: str, /, *args: Any, retain: bool = False, **kwargs: Any) -> bool:
        """Publish an event; return False when there is no wamp session or no room to send. Never blocks.

        There is no room while `SEND_LIMIT_BYTES` wait to be sent, because the router does not read. It does
        not confirm an event, and drops one that the role does not permit.

        Raises:
            PayloadTooLarge: the event is too large; nothing was sent.
            InvalidArgument: the event contains a value that msgpack cannot encode.
        """
        session = self._attached()
        if session is None:
            return False
        if not session.writable and session.buffered_bytes() >= SEND_LIMIT_BYTES:
            self._refuse()
            return False
        if retain:
            kwargs["options"] = PublishOptions(retain=True)
        try:
            session.publish(topic, *args, **kwargs)
        except Exception as error:  # autobahn's errors have no common base
            converted = to_timbr_error("publish", topic, error)
            if isinstance(converted, ConnectionLost):
                return False
            raise converted from None
        return True

    def _refuse(self) -> None:
        self.refused += 1
        if self.refused == 1 or self.refused % 10_000 == 0:
            logger.warning("%s does not read: %d events were not sent so far", self.url, self.refused)

    # --- the supervisor ---------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Run one session after the other, until a permanent failure or `close`."""
        try:
            while True:
                try:
                    await self._run_session()
                except _PermanentFailure as fatal:
                    self._fail(fatal.error)
                    return
                except (OSError, TimeoutError, JoinRefused) as error:
                    self._problem = reason_of(error, self.url)
                    if isinstance(error, OSError) and not isinstance(error, TimeoutError) and not self._may_come:
                        self._fail(NotConnected(self.url, self._problem))
                        return
                wait_s = self._backoff.next_s()
                logger.info("%s: %s; next attempt in %.1f s", self.url, self._problem, wait_s)
                await asyncio.sleep(wait_s)
        except Exception as error:  # a fault of ours: whoever waits for the connection, or uses it, is told
            logger.error("the connection to %s failed", self.url, exc_info=error)
            self._fail(as_timbr_error(f"the connection to {self.url}", error))
        finally:
            self._finished.set()

    def _failed_unexpectedly(self, error: Exception) -> None:
        self._fail(as_timbr_error(f"the connection to {self.url}", error))
        if self._supervisor is not None:
            self._supervisor.cancel()

    def _fail(self, error: TimbrError) -> None:
        self.failed, self._problem = error, str(error)
        logger.info("%s: %s", self.url, error)  # whoever uses the connection gets the error

    async def _run_session(self) -> None:
        """Join, restore registrations and subscriptions, and return when the session has ended."""
        session = SafeSession(self._realm, self._credentials)
        loop = asyncio.get_running_loop()
        try:
            await self._join(session)
            joined_at = loop.time()
            if self._peers_back_at:
                self._peers_back_at = joined_at + self._retry_cap_s + JOIN_TIMEOUT_S
            self.reconnections += self._has_joined
            self._session, self._has_joined = session, True
            await self._subscriptions.restore(session)
            await self._notify_joined(session)
            await asyncio.wait([session.ended])
            self._problem = session.ended.result()
            if loop.time() - joined_at >= STABLE_S:
                self._backoff.reset()
            if self._problem == TokenRevoked.uri:
                raise _PermanentFailure(TokenRevoked(self._name))
        finally:
            if self._session is session:
                self._peers_back_at = math.inf
            await self._discard(session)

    @property
    def _may_come(self) -> bool:
        """A router that is not there may come."""
        return self._waits or self._has_joined

    async def _join(self, session: SafeSession) -> None:
        if not self._has_joined:
            self._problem = f"no answer from {where(self.url)}"
        try:
            async with asyncio.timeout(JOIN_TIMEOUT_S):
                await open_transport(self.url, session)
                await session.joined
        except JoinRefused as refused:
            if refused.reason == NO_TOKEN:
                problem = f"none was passed or configured for {self.url}; {TOKENS_RULE}"
                raise _PermanentFailure(InvalidToken(problem)) from None
            if refused.reason in FATAL_REFUSALS:
                reason = f"{refused.message or refused.reason} ({self.url})"
                raise _PermanentFailure(TokenRejected(self._name, reason)) from None
            mistake = None if self._has_joined else self._mistake(refused, session.opened)
            if mistake is not None:
                raise _PermanentFailure(NotConnected(self.url, mistake)) from None
            raise
        except TimbrError as error:  # an invalid URL
            raise _PermanentFailure(error) from None
        except TimeoutError:
            raise TimeoutError(f"no answer within {JOIN_TIMEOUT_S:g} s") from None

    def _mistake(self, refused: JoinRefused, opened: bool) -> str | None:
        """Return what is wrong with realm or address; None for a refusal that may end by itself."""
        if refused.reason == "wamp.error.no_such_realm":
            there = f"; {refused.message}" if refused.message.startswith("realms: ") else ""  # our node names them
            return f"it has no realm {self._realm!r}{there}"
        return None if opened else wrong_address(refused.message, self.url, may_come=self._may_come)

    async def _notify_joined(self, session: SafeSession) -> None:
        """Await ``on_join`` while the session lasts, then set the connection's state to joined."""
        if self._on_join is not None and not session.ended.done():
            task = asyncio.ensure_future(self._on_join())
            try:
                await first_of(task, session.ended)
            finally:
                task.cancel()
                await asyncio.wait([task])
            if not task.cancelled() and (error := task.exception()) is not None:
                if not isinstance(error, TimbrError):
                    raise error
                logger.warning("%s: on_join failed: %s", self.url, error)
        if not session.ended.done():
            self._joined.set()
            self._tell(True, "")
            logger.info("joined %s as %s (%s)", self.url, session.authid, session.authrole)

    async def _discard(self, session: SafeSession) -> None:
        """Discard the session, and close it if it is still open."""
        was_current, self._session = self._session is session, None
        was_joined = self._joined.is_set()
        self._joined.clear()
        if session.is_attached():
            session.leave()
            await asyncio.wait([session.ended], timeout=LEAVE_TIMEOUT_S)
        session.drop()
        await session.end_invocations(LEAVE_TIMEOUT_S)
        reason = session.ended.result() if session.ended.done() else "closed"
        if was_joined and self._supervisor is not None:  # it was lost, not closed
            self._tell(False, reason)
        if was_current and self._on_leave is not None:
            try:
                self._on_leave(reason)
            except Exception:  # a callback is user code and may raise anything
                logger.exception("on_leave failed")

    def _tell(self, joined: bool, reason: str) -> None:
        for listener in tuple(self.link_listeners):
            listener(joined, reason)


def _progress_handler(on_progress: Callable[[Any], object]) -> Callable[..., None]:
    """Return ``on_progress`` as autobahn calls it: with one value, and logging its exceptions."""

    def take(*args: Any, **kwargs: Any) -> None:
        try:
            on_progress(args[0] if len(args) == 1 else list(args))
        except Exception:  # a callback is user code and may raise anything
            logger.exception("on_progress failed")

    return take


def _checked_uri(uri: str) -> str:
    # Crossbar drops the whole connection on registration of an invalid URI.
    if not _URI.fullmatch(uri):
        raise InvalidName(uri, "a WAMP URI: components without spaces or #, joined by dots")
    return uri
