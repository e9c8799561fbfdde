"""The subscriptions and registrations of a connection, and how they are restored on a new session.

Each topic has one subscription at the router, for any number of handlers. One lock guards all
changes: when an unsubscription overlaps a subscription to the same topic, autobahn loses the latter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import RegisterOptions, SubscribeOptions

from timbr_wamp.client.session import SafeSession, to_timbr_error
from timbr_wamp.errors import CallTimeout, ConnectionLost, InvalidArgument, TimbrError, to_wire

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[..., None]
Endpoint: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any], CallInfo], Awaitable[Any]]"

#: Timeout for the router's answer to a subscription or registration.
ANSWER_TIMEOUT_S = 10.0

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


@dataclass(eq=False, slots=True)
class Registration:
    """A procedure that this connection answers."""

    uri: str
    endpoint: Endpoint = field(repr=False)
    _owner: Subscriptions = field(repr=False)
    live: Any = field(default=None, repr=False)

    async def unregister(self) -> None:
        """Stop answering. Idempotent; never fails, also without a connection."""
        await self._owner.unregister(self)


class _TopicHandlers:
    """The handlers of a topic and its subscription on the current session."""

    def __init__(self) -> None:
        self.handlers: tuple[Subscription, ...] = ()
        self.live: Any = None

    def dispatch(self, *args: Any, **kwargs: Any) -> None:
        details = kwargs.pop(_DETAILS)
        info = EventInfo(details.topic, bool(details.retained), details.publisher, details.publisher_authid)
        for subscription in self.handlers:
            if info.retained and not subscription.get_retained:
                continue
            try:
                subscription.handler(*args, details=info, **kwargs)
            except Exception:  # a handler is user code and may raise anything
                logger.exception("a handler of %s failed", info.topic)


def _ignore(*args: Any, **kwargs: Any) -> None:
    """A handler that does nothing."""


class Subscriptions:
    """All subscriptions and registrations of a connection. Loop's own thread only."""

    def __init__(self) -> None:
        self._topics: dict[str, _TopicHandlers] = {}
        self._registrations: dict[str, Registration] = {}
        self._lock = asyncio.Lock()
        self._session: SafeSession | None = None

    async def restore(self, session: SafeSession) -> None:
        """Restore all registrations and subscriptions on a new session. Refused ones are logged and kept."""
        async with self._lock:
            self._session = session
            for topic in self._topics.values():
                topic.live = None
            for registration in self._registrations.values():
                registration.live = None
            await _all(
                [
                    *(self._register_live(session, registration) for registration in self._registrations.values()),
                    *(self._subscribe_live(session, name) for name in self._topics),
                ]
            )

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
        async with self._lock:
            entry = self._topics.get(subscription.topic)
            if entry is None or subscription not in entry.handlers:
                return
            self._forget(subscription)
            if not entry.handlers and entry.live is not None:
                await self._quietly(entry.live.unsubscribe)

    def _forget(self, subscription: Subscription) -> None:
        entry = self._topics[subscription.topic]
        entry.handlers = tuple(other for other in entry.handlers if other is not subscription)
        if not entry.handlers:
            del self._topics[subscription.topic]

    async def _subscribe_live(self, session: SafeSession, topic: str, *, again: bool = False) -> None:
        """Subscribe at the router. With ``again`` subscribe even if subscribed, to get the retained event."""
        entry = self._topics[topic]
        if entry.live is not None and not again:
            return
        retained = any(subscription.get_retained for subscription in entry.handlers) or None
        options = SubscribeOptions(details_arg=_DETAILS, get_retained=retained)
        first = entry.live is None
        live = await _request(
            "subscribe to", topic, session.subscribe, entry.dispatch if first else _ignore, topic, options
        )
        if first:
            entry.live = live
        else:
            await live.unsubscribe()  # not sent to the router: autobahn counts handlers, and the first one remains

    async def register(self, session: SafeSession | None, uri: str, endpoint: Endpoint) -> Registration:
        """See `Connection.register`."""
        if uri in self._registrations:
            raise InvalidArgument("uri", f"this connection already registered {uri}")
        registration = Registration(uri, endpoint, self)
        self._registrations[uri] = registration
        async with self._lock:
            if session is not None and session is self._session and registration.live is None:
                try:
                    await self._register_live(session, registration)
                except ConnectionLost:
                    logger.debug("registration of %s waits for the next session", uri)
                except BaseException:
                    self._registrations.pop(uri, None)
                    raise
        return registration

    async def unregister(self, registration: Registration) -> None:
        """See `Registration.unregister`."""
        async with self._lock:
            if self._registrations.get(registration.uri) is not registration:
                return
            del self._registrations[registration.uri]
            if registration.live is not None:
                await self._quietly(registration.live.unregister)

    async def _register_live(self, session: SafeSession, registration: Registration) -> None:
        # An earlier session of this connection may still be open at the router and hold the procedure.
        options = RegisterOptions(details_arg=_DETAILS, force_reregister=True)
        endpoint = _endpoint(registration.endpoint)
        registration.live = await _request(
            "register", registration.uri, session.register, endpoint, registration.uri, options
        )

    async def _quietly(self, undo: Callable[[], Awaitable[object]]) -> None:
        """Unsubscribe or unregister at the router. Without a session there is nothing to undo."""
        if self._session is None or not self._session.is_attached():
            return
        try:
            await _request("undo", "", undo)
        except TimbrError as error:
            logger.debug("could not unsubscribe or unregister: %s", error)


async def _request(action: str, uri: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of autobahn and await the router's answer."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await function(*args)
    except TimeoutError:
        raise CallTimeout(f"{action} {uri}", ANSWER_TIMEOUT_S) from None
    except Exception as error:  # autobahn's errors have no common base
        raise to_timbr_error(action, uri, error) from None


async def _all(requests: Iterable[Awaitable[None]]) -> None:
    """Await all requests concurrently and log the failed ones, except for a lost connection."""
    for result in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(result, TimbrError) and not isinstance(result, ConnectionLost):
            logger.warning("a registration or subscription could not be restored: %s", result)
        elif isinstance(result, BaseException) and not isinstance(result, TimbrError):
            raise result


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
