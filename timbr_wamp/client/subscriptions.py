"""The subscriptions and registrations of a connection, and how they are restored on a new session.

Each topic has one subscription at the router, for any number of handlers. One lock guards all
changes: when an unsubscription overlaps a subscription to the same topic, autobahn loses the latter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import RegisterOptions, SubscribeOptions

from timbr_wamp.client.backoff import Backoff
from timbr_wamp.client.session import SafeSession, to_timbr_error
from timbr_wamp.client.tasks import Tasks, first_of
from timbr_wamp.errors import CallTimeout, ConnectionLost, InvalidArgument, TimbrError, to_wire

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[..., None]
Endpoint: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any], CallInfo], Awaitable[Any]]"

#: Timeout for the router's answer to a subscription or registration.
ANSWER_TIMEOUT_S = 10.0
#: Shortest and longest wait between two attempts to restore what failed at a reconnection.
RESTORE_PAUSE_S, RESTORE_CAP_S = 0.5, 10.0

# Name of the keyword argument in which autobahn passes details; must not collide with a caller's keyword.
_DETAILS = "_timbr_wamp_details"


@dataclass(frozen=True, slots=True)
class EventInfo:
    """The router's information about an event."""

    topic: str
    #: The event is the topic's retained event, published earlier.
    retained: bool
    #: Wamp session and authid of the publisher, if the router discloses them.
    publisher: int | None
    authid: str | None


@dataclass(frozen=True, slots=True)
class CallInfo:
    """The router's information about a call."""

    procedure: str
    #: Name, role and wamp session of the caller, if the router discloses them.
    authid: str | None
    role: str | None
    session: int | None
    #: Sends a progressive result; None when the caller did not ask for them.
    progress: Callable[[Any], None] | None


@dataclass(eq=False, slots=True)
class Subscription:
    """One handler on one topic."""

    topic: str
    handler: Handler = field(repr=False)
    get_retained: bool
    _owner: Subscriptions = field(repr=False)

    async def unsubscribe(self) -> None:
        """Stop calling the handler. Idempotent; never fails, also without a connection."""
        await self._owner.unsubscribe(self)


class Several(Subscription):
    """Subscriptions that end together."""

    def __init__(self, first: Subscription, *others: Subscription) -> None:
        super().__init__(first.topic, first.handler, first.get_retained, first._owner)
        self._all = (first, *others)

    async def unsubscribe(self) -> None:
        """End all of them. Idempotent."""
        for one in self._all:
            await one.unsubscribe()


@dataclass(eq=False, slots=True)
class Registration:
    """A procedure that this connection answers."""

    uri: str
    endpoint: Endpoint = field(repr=False)
    _owner: Subscriptions = field(repr=False)
    live: Any = field(default=None, repr=False)
    #: Another session took it over. It is made again when that session has left, and takes nothing from it.
    revoked: bool = False

    async def unregister(self) -> None:
        """Stop answering. Idempotent; never fails, also without a connection."""
        await self._owner.unregister(self)


class _TopicHandlers:
    """The handlers of a topic and its subscription on the current session."""

    def __init__(self) -> None:
        self.handlers: tuple[Subscription, ...] = ()
        self.live: _Live | None = None


class _Live:
    """One subscription of autobahn. It hands events on unless it was given up, or only fetches the retained event."""

    def __init__(self, topic: str, owner: Subscriptions) -> None:
        self._topic, self._owner = topic, owner
        self.used = True
        #: autobahn's object; None until the router has answered.
        self.answer: Any = None

    def dispatch(self, *args: Any, **kwargs: Any) -> None:
        details = kwargs.pop(_DETAILS)
        entry = self._owner.handlers_of(self._topic)
        if entry is None or not self.used:
            return
        info = EventInfo(details.topic, bool(details.retained), details.publisher, details.publisher_authid)
        for subscription in entry.handlers:
            if info.retained and not subscription.get_retained:
                continue
            try:
                subscription.handler(*args, details=info, **kwargs)
            except Exception:  # a handler is user code and may raise anything
                logger.exception("a handler of %s failed", info.topic)


class Subscriptions:
    """All subscriptions and registrations of a connection. Loop's own thread only.

    A request to the router is never abandoned: when the caller is cancelled or the answer comes late, the
    answer is awaited all the same, and what it gave is used if it is still wanted, else undone. Events and
    invocations that follow the answer would otherwise refer to something that this session does not know.
    """

    def __init__(self, on_error: Callable[[Exception], None]) -> None:
        self._topics: dict[str, _TopicHandlers] = {}
        self._registrations: dict[str, Registration] = {}
        self._lock = asyncio.Lock()
        self._session: SafeSession | None = None
        self._on_error = on_error
        self._tasks = Tasks(on_error)
        #: The session for which missing ones are restored in the background.
        self._restoring: SafeSession | None = None

    def handlers_of(self, topic: str) -> _TopicHandlers | None:
        """Return the handlers of a topic; None without any."""
        return self._topics.get(topic)

    async def close(self) -> None:
        """End what goes on in the background; without a session there is nothing to undo."""
        self._session = None
        tasks, self._tasks = self._tasks, Tasks(self._on_error)  # the connection may be opened again
        await tasks.close()

    # --- a new session ---------------------------------------------------------------------------

    async def restore(self, session: SafeSession) -> None:
        """Restore all registrations and subscriptions on a new session. Failed ones are logged, and tried again."""
        async with self._lock:
            self._session = session
            session.on_revoked = partial(self._revoked, session)
            for topic in self._topics.values():
                topic.live = None
            for registration in self._registrations.values():
                registration.live = None
            failed = await self._restore_missing(session)
        if failed:
            logger.warning("%d registrations or subscriptions could not be restored: %s", len(failed), failed[0])
            self._start_restoring(session)

    def _revoked(self, session: SafeSession, number: int) -> None:
        """Note that the router took a registration away, because another session forced it."""
        for registration in self._registrations.values():
            if session is self._session and registration.live is not None and registration.live.id == number:
                logger.warning("%s is answered by another session now", registration.uri)
                registration.live, registration.revoked = None, True
                self._start_restoring(session)

    def _start_restoring(self, session: SafeSession) -> None:
        if self._restoring is not session:
            self._restoring = session
            self._tasks.start(self._restore_later(session), "restore")

    async def _restore_later(self, session: SafeSession) -> None:
        """Try again to restore what failed, while the session lasts."""
        backoff = Backoff(RESTORE_CAP_S, initial_s=RESTORE_PAUSE_S)
        while True:
            await first_of(session.ended, timeout_s=backoff.next_s())
            if session is not self._session or session.ended.done():
                return
            async with self._lock:
                failed = await self._restore_missing(session)
            if not failed:
                logger.info("all registrations and subscriptions are restored")
                self._restoring = None
                return
            logger.debug("still not restored: %s", failed)

    async def _restore_missing(self, session: SafeSession) -> list[TimbrError]:
        """Make all registrations and subscriptions that the session has not; return the errors of those that failed.

        Raises:
            Exception: an unexpected error of one of them.
        """
        requests = [
            *(self._register_live(session, one) for one in self._registrations.values() if one.live is None),
            *(self._subscribe_live(session, name) for name, entry in self._topics.items() if entry.live is None),
        ]
        errors = [result for result in await asyncio.gather(*requests, return_exceptions=True) if result is not None]
        for error in errors:
            if not isinstance(error, TimbrError):
                raise error
        return [error for error in errors if isinstance(error, TimbrError) and not isinstance(error, ConnectionLost)]

    # --- subscriptions -----------------------------------------------------------------------

    async def subscribe(
        self, session: SafeSession | None, topic: str, handler: Handler, get_retained: bool
    ) -> Subscription:
        """See `Connection.subscribe`."""
        subscription = Subscription(topic, handler, get_retained, self)
        async with self._lock:
            entry = self._topics.setdefault(topic, _TopicHandlers())
            entry.handlers += (subscription,)
            if session is not None and session is self._session:
                try:
                    await self._subscribe_live(session, topic, again=get_retained)
                except ConnectionLost:
                    logger.debug("subscription to %s waits for the next session", topic)
                except BaseException:
                    self._forget(subscription)
                    raise
        return subscription

    async def unsubscribe(self, subscription: Subscription) -> None:
        """See `Subscription.unsubscribe`."""
        entry = self._topics.get(subscription.topic)
        if entry is None or subscription not in entry.handlers:
            return
        self._forget(subscription)  # at once, also when the rest is cancelled
        if not entry.handlers and entry.live is not None:
            await self._undo(entry.live.answer.unsubscribe)

    def _forget(self, subscription: Subscription) -> None:
        entry = self._topics[subscription.topic]
        entry.handlers = tuple(other for other in entry.handlers if other is not subscription)
        if not entry.handlers:
            del self._topics[subscription.topic]
            if entry.live is not None:
                entry.live.used = False

    async def _subscribe_live(self, session: SafeSession, topic: str, *, again: bool = False) -> None:
        """Subscribe at the router. With ``again`` subscribe even if subscribed, to get the retained event."""
        entry = self._topics[topic]
        if entry.live is not None and not again:
            return
        retained = any(subscription.get_retained for subscription in entry.handlers) or None
        options = SubscribeOptions(details_arg=_DETAILS, get_retained=retained)
        live = _Live(topic, self)
        # One more subscription brings the retained event through the first one's dispatch.
        live.used = entry.live is None

        async def late(answer: Any) -> None:
            current = self._topics.get(topic)
            if current is not None and current.live is None and session is self._session:
                live.used, live.answer, current.live = True, answer, live
            else:
                await self._undo_now(answer.unsubscribe)

        send = partial(session.subscribe, live.dispatch, topic, options)
        live.answer = await self._answer("subscribe to", topic, send, late, live)
        if entry.live is None:
            entry.live = live
        else:
            await live.answer.unsubscribe()  # not sent to the router: autobahn counts handlers, and the first remains

    # --- registrations -----------------------------------------------------------------------

    async def register(self, session: SafeSession | None, uri: str, endpoint: Endpoint) -> Registration:
        """See `Connection.register`."""
        if uri in self._registrations:
            raise InvalidArgument("uri", f"this connection already registered {uri}")
        registration = Registration(uri, endpoint, self)
        self._registrations[uri] = registration
        try:
            async with self._lock:
                if session is not None and session is self._session and registration.live is None:
                    await self._register_live(session, registration)
        except ConnectionLost:
            logger.debug("registration of %s waits for the next session", uri)
        except BaseException:
            self._registrations.pop(uri, None)
            raise
        return registration

    async def unregister(self, registration: Registration) -> None:
        """See `Registration.unregister`."""
        if self._registrations.get(registration.uri) is not registration:
            return
        del self._registrations[registration.uri]
        if registration.live is not None:
            await self._undo(registration.live.unregister)

    async def _register_live(self, session: SafeSession, registration: Registration) -> None:
        # An earlier session of this connection may still be open at the router and hold the procedure.
        options = RegisterOptions(details_arg=_DETAILS, force_reregister=not registration.revoked or None)
        uri = registration.uri

        async def late(answer: Any) -> None:
            wanted = self._registrations.get(uri) is registration and registration.live is None
            if wanted and session is self._session:
                registration.live = answer
            else:
                await self._undo_now(answer.unregister)

        send = partial(session.register, _endpoint(registration.endpoint), uri, options)
        registration.live, registration.revoked = await self._answer("register", uri, send, late), False

    # --- requests to the router ------------------------------------------------------------------

    async def _answer(
        self,
        action: str,
        uri: str,
        send: Callable[[], asyncio.Future[Any]],
        late: Callable[[Any], Coroutine[Any, Any, None]],
        live: _Live | None = None,
    ) -> Any:
        """Send a request and return the answer. ``late`` handles, under the lock, one for which nobody waits any more.

        Raises:
            CallTimeout: no answer within `ANSWER_TIMEOUT_S`.
        """
        request: asyncio.Future[Any] | None = None
        try:
            request = send()
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await asyncio.shield(request)
        except (TimeoutError, asyncio.CancelledError) as error:
            if live is not None:
                live.used = False
            if request is not None:
                request.add_done_callback(lambda answered: self._answered_late(action, uri, answered, late))
            if isinstance(error, TimeoutError):
                raise CallTimeout(f"{action} {uri}", ANSWER_TIMEOUT_S) from None
            raise
        except Exception as error:  # autobahn's errors have no common base
            raise to_timbr_error(action, uri, error) from None

    def _answered_late(
        self, action: str, uri: str, request: asyncio.Future[Any], late: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        if request.cancelled() or request.exception() is not None:
            return  # refused, or the session ended: there is nothing to undo
        logger.debug("late answer: %s %s", action, uri)

        async def handle() -> None:
            async with self._lock:
                await late(request.result())

        self._tasks.start(handle(), f"late answer to {action} {uri}")

    async def _undo(self, undo: Callable[[], Any]) -> None:
        """Unsubscribe or unregister, not beside another request. It is done also when the waiting is cancelled."""

        async def alone() -> None:
            async with self._lock:
                await self._undo_now(undo)

        await asyncio.wait([self._tasks.start(alone(), "undo")])

    async def _undo_now(self, undo: Callable[[], Any]) -> None:
        """Unsubscribe or unregister at the router. Without a session there is nothing to undo."""
        if self._session is None or not self._session.is_attached():
            return
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await asyncio.shield(asyncio.ensure_future(undo()))
        except Exception as error:  # autobahn's errors have no common base; the router may have forgotten it before
            logger.debug("could not unsubscribe or unregister: %s", error)


class _WampError(ApplicationError):  # type: ignore[misc]
    """An error that is sent to a caller."""

    def __str__(self) -> str:
        # autobahn calls str() for its log; its own __str__ shortens the traceback in place
        return str(self.error)


def _endpoint(endpoint: Endpoint) -> Callable[..., Awaitable[Any]]:
    """Return ``endpoint`` as autobahn calls it; its exceptions are sent with the URIs of `timbr_wamp.errors`."""

    async def invoke(*args: Any, **kwargs: Any) -> Any:
        details = kwargs.pop(_DETAILS)
        call = CallInfo(
            details.procedure, details.caller_authid, details.caller_authrole, details.caller, details.progress
        )
        try:
            return await endpoint(args, kwargs, call)
        except asyncio.CancelledError:  # the caller cancelled the call; the router has already answered it
            raise _WampError("wamp.error.canceled", "cancelled") from None
        except Exception as error:  # an endpoint may raise anything
            if not isinstance(error, TimbrError):
                logger.exception("the endpoint of %s failed", call.procedure)
            uri, error_args, error_kwargs = to_wire(error)
            raise _WampError(uri, *error_args, **error_kwargs) from None

    return invoke
