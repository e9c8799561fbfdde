"""What a connection is subscribed to and registers, and how both are made again on a new session.

One subscription at the router a topic, however many handlers; one lock around all changes, so that
an unsubscription never crosses a subscription to the same topic, which autobahn would then forget.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import RegisterOptions, SubscribeOptions

from timbr_wamp.client.session import SafeSession, our_error
from timbr_wamp.errors import CallTimeout, ConnectionLost, InvalidArgument, TimbrError, to_wire

logger = logging.getLogger(__name__)

Handler: TypeAlias = Callable[..., None]
Endpoint: TypeAlias = "Callable[[tuple[Any, ...], dict[str, Any], CallInfo], Awaitable[Any]]"

#: The router answers a subscription or registration within this, or it is taken for gone.
ANSWER_TIMEOUT_S = 10.0

# The keyword under which autobahn passes details; must not meet a keyword of a caller.
_DETAILS = "_timbr_wamp_details"


@dataclass(frozen=True, slots=True)
class EventInfo:
    """What the router says of an event beside its content."""

    topic: str
    #: It is the retained one, kept from earlier.
    retained: bool
    #: Wamp session and authid of who published it, where the router discloses them.
    publisher: int | None
    authid: str | None


@dataclass(frozen=True, slots=True)
class CallInfo:
    """What the router says of a call beside its arguments."""

    procedure: str
    #: Name, role and wamp session of the caller, where the router discloses them.
    authid: str | None
    role: str | None
    session: int | None
    #: Sends a progressive result; None when the caller wants none.
    progress: Callable[[Any], None] | None


@dataclass(eq=False, slots=True)
class Subscription:
    """One handler on one topic."""

    topic: str
    handler: Handler = field(repr=False)
    get_retained: bool
    _topics: Topics = field(repr=False)

    async def unsubscribe(self) -> None:
        """Stop calling the handler. Idempotent; never fails, also without a link."""
        await self._topics.unsubscribe(self)


@dataclass(eq=False, slots=True)
class Registration:
    """One procedure that we answer."""

    uri: str
    endpoint: Endpoint = field(repr=False)
    _topics: Topics = field(repr=False)
    live: Any = field(default=None, repr=False)

    async def unregister(self) -> None:
        """Stop answering. Idempotent; never fails, also without a link."""
        await self._topics.unregister(self)


class _Topic:
    """The handlers of one topic, and the subscription of the present session."""

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
            except Exception:  # a handler: foreign code
                logger.exception("a handler of %s failed", info.topic)


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in as a handler that does nothing."""


class Topics:
    """All subscriptions and registrations of a connection. Loop's own thread only."""

    def __init__(self) -> None:
        self._topics: dict[str, _Topic] = {}
        self._registrations: dict[str, Registration] = {}
        self._lock = asyncio.Lock()
        self._session: SafeSession | None = None

    async def restore(self, session: SafeSession) -> None:
        """Register and subscribe everything on a new session. What is refused is logged and kept."""
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
            entry = self._topics.setdefault(topic, _Topic())
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
        """Subscribe at the router; once more (for the retained event) when ``again``."""
        entry = self._topics[topic]
        if entry.live is not None and not again:
            return
        retained = any(subscription.get_retained for subscription in entry.handlers) or None
        options = SubscribeOptions(details_arg=_DETAILS, get_retained=retained)
        first = entry.live is None
        live = await _answer(
            "subscribe to", topic, session.subscribe, entry.dispatch if first else _ignore, topic, options
        )
        if first:
            entry.live = live
        else:
            await live.unsubscribe()  # local: autobahn counts handlers, the first one stays

    async def register(self, session: SafeSession | None, uri: str, endpoint: Endpoint) -> Registration:
        """See `Connection.register`."""
        if uri in self._registrations:
            raise InvalidArgument("uri", f"{uri} is registered here already")
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
        # A half-open older session of ours may still hold the procedure.
        options = RegisterOptions(details_arg=_DETAILS, force_reregister=True)
        endpoint = _endpoint(registration.endpoint)
        registration.live = await _answer(
            "register", registration.uri, session.register, endpoint, registration.uri, options
        )

    async def _quietly(self, undo: Callable[[], Awaitable[object]]) -> None:
        """Undo something at the router; when the link is gone, it is undone already."""
        if self._session is None or not self._session.is_attached():
            return
        try:
            await _answer("undo", "", undo)
        except TimbrError as error:
            logger.debug("not undone at the router: %s", error)


async def _answer(action: str, uri: str, function: Callable[..., Any], *args: Any) -> Any:
    """Call autobahn's ``function`` and wait for the router's answer."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            return await function(*args)
    except TimeoutError:
        raise CallTimeout(f"{action} {uri}", ANSWER_TIMEOUT_S) from None
    except Exception as error:  # autobahn's errors have no common base
        raise our_error(action, uri, error) from None


async def _all(requests: Iterable[Awaitable[None]]) -> None:
    """Make all requests at once; log what failed. A lost link shows elsewhere."""
    for result in await asyncio.gather(*requests, return_exceptions=True):
        if isinstance(result, TimbrError) and not isinstance(result, ConnectionLost):
            logger.warning("not restored on the new session: %s", result)
        elif isinstance(result, BaseException) and not isinstance(result, TimbrError):
            raise result


class _Answer(ApplicationError):  # type: ignore[misc]
    """An error on its way to a caller."""

    def __str__(self) -> str:
        # autobahn's own, which autobahn calls for its log, replaces the traceback by dots.
        return str(self.error)


def _endpoint(endpoint: Endpoint) -> Callable[..., Awaitable[Any]]:
    """Return ``endpoint`` as autobahn calls it; its errors leave with our URIs."""

    async def invoke(*args: Any, **kwargs: Any) -> Any:
        details = kwargs.pop(_DETAILS)
        call = CallInfo(
            details.procedure, details.caller_authid, details.caller_authrole, details.caller, details.progress
        )
        try:
            return await endpoint(args, kwargs, call)
        except asyncio.CancelledError:  # the caller cancelled; the router already told it so
            raise _Answer("wamp.error.canceled", "cancelled") from None
        except Exception as error:  # an endpoint: foreign code
            if not isinstance(error, TimbrError):
                logger.exception("the endpoint of %s failed", call.procedure)
            uri, error_args, error_kwargs = to_wire(error)
            raise _Answer(uri, *error_args, **error_kwargs) from None

    return invoke
