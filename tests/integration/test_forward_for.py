"""Nobody speaks for another wamp session: ``forward_for`` in every message that can carry it, byte by byte.

WAMP has it for links between routers, of which there are none. Requests with it are refused, other messages lose
it, and what only a router sends ends the connection of a client that sends it.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import pytest
from autobahn.wamp import message as wamp
from plain_wamp import in_loop
from raw_sockets import RawConnection, joined, packed, raw_connection

from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore

pytestmark = pytest.mark.integration

TRANSPORTS = pytest.mark.parametrize(
    ("kind", "serializer"), [("websocket", "json"), ("websocket", "msgpack"), ("rawsocket", "msgpack")]
)
NOT_AUTHORIZED = "wamp.error.not_authorized"
ROLES = {
    "caller": {"features": {"call_canceling": True, "progressive_call_results": True}},
    "callee": {"features": {"call_canceling": True, "progressive_call_results": True}},
    "publisher": {},
    "subscriber": {},
}
#: Types of messages.
ERROR, PUBLISH, PUBLISHED, SUBSCRIBE, SUBSCRIBED, UNSUBSCRIBE, UNSUBSCRIBED, EVENT = 8, 16, 17, 32, 33, 34, 35, 36
CALL, CANCEL, RESULT, REGISTER, REGISTERED, UNREGISTER, UNREGISTERED = 48, 49, 50, 64, 65, 66, 67
INVOCATION, INTERRUPT, YIELD = 68, 69, 70
REFUSED, STRIPPED, FATAL = {CALL, PUBLISH, SUBSCRIBE, REGISTER}, {UNSUBSCRIBE, UNREGISTER, CANCEL, YIELD, ERROR}, {
    EVENT, RESULT, INVOCATION, INTERRUPT
}  # fmt: skip

_numbers = itertools.count()


def test_every_message_that_can_carry_it_is_tried() -> None:
    carrying = {
        each.MESSAGE_TYPE
        for _, each in inspect.getmembers(wamp, inspect.isclass)
        if hasattr(each, "MESSAGE_TYPE") and "forward_for" in inspect.signature(each.__init__).parameters
    }
    assert carrying == REFUSED | STRIPPED | FATAL


class Peer:
    """A raw connection with a wamp session."""

    def __init__(self, connection: RawConnection, name: str, session: int) -> None:
        self._connection, self.name, self.session = connection, name, session
        self._requests = itertools.count(1)

    def send(self, kind: int, *rest: Any) -> int:
        """Send a request; return its number."""
        number = next(self._requests)
        self.post(kind, number, *rest)
        return number

    def post(self, *message: Any) -> None:
        self._connection.send(packed(list(message), self._connection.serializer))

    async def next(self, kind: int) -> list[Any]:
        """Return the next message, which must be of that type."""
        message = await self._connection.message()
        assert message[0] == kind, message
        return message

    async def request(self, kind: int, *rest: Any, answer: int) -> list[Any]:
        self.send(kind, *rest)
        return await self.next(answer)

    async def is_ended(self) -> bool:
        return await self._connection.is_ended(5.0)


class Peers:
    """A host and an administrator, and what an impostor would say that he is."""

    def __init__(self, host: Peer, admin: Peer) -> None:
        self.host, self.admin = host, admin
        self.prefix = f"io.timbr.kernel.{new_kernel_id(host.name)}"

    def forged(self, **options: Any) -> dict[str, Any]:
        return {
            "forward_for": [{"session": self.admin.session, "authid": self.admin.name, "authrole": "admin"}]
        } | options


@asynccontextmanager
async def peers_of(router: Router, kind: str, serializer: str) -> AsyncIterator[Peers]:
    store, made = TokenStore(router.node_dir), []
    try:
        async with AsyncExitStack() as stack:
            peers = []
            for role in ("host", "admin"):
                made.append(f"forged_{role}_{next(_numbers)}")
                token = store.create(made[-1], role)
                connection = await stack.enter_async_context(raw_connection(router, kind, serializer))
                session = await joined(connection, token, ROLES)
                peers.append(Peer(connection, made[-1], session))
            yield Peers(*peers)
    finally:
        for name in made:
            store.revoke(name)


@TRANSPORTS
@in_loop
async def test_requests_that_speak_for_another_session_are_refused(router: Router, kind: str, serializer: str) -> None:
    async with peers_of(router, kind, serializer) as peers:
        own, forged = peers.prefix, peers.forged()
        for options in (forged, {"forward_for": []}):
            for message in (
                (CALL, options, "io.timbr.node.announce", [{}]),
                (CALL, options, "io.timbr.kernel.list"),
                (CALL, options, "io.timbr.no_such"),
                (PUBLISH, options | {"acknowledge": True}, f"{own}.state", [{}]),
                (SUBSCRIBE, options, f"{own}.state"),
                (REGISTER, options, f"{own}.ping"),
            ):
                answer = await peers.host.request(*message, answer=ERROR)
                assert (answer[1], answer[4]) == (message[0], NOT_AUTHORIZED), answer
        for person in (CALL, {}, f"{own}.ping"), (CALL, forged, f"{own}.ping"):
            answer = await peers.admin.request(*person, answer=ERROR)
            assert answer[4] in (NOT_AUTHORIZED, "wamp.error.no_such_procedure")


@TRANSPORTS
@in_loop
async def test_an_event_without_an_answer_is_dropped_and_a_true_one_has_the_true_name(
    router: Router, kind: str, serializer: str
) -> None:
    async with peers_of(router, kind, serializer) as peers:
        topic = f"{peers.prefix}.state"
        await peers.admin.request(SUBSCRIBE, {}, topic, answer=SUBSCRIBED)
        peers.host.send(PUBLISH, peers.forged(), topic, ["forged"])
        await peers.host.request(PUBLISH, {"acknowledge": True}, topic, ["true"], answer=PUBLISHED)
        event = await peers.admin.next(EVENT)
        assert event[4] == ["true"]
        assert "forward_for" not in event[3]
        assert event[3].get("publisher_authid") == peers.host.name


@TRANSPORTS
@in_loop
async def test_what_ends_a_subscription_or_registration_is_told_to_who_it_names(
    router: Router, kind: str, serializer: str
) -> None:
    """Crossbar tells such events to all but those whom ``forward_for`` names."""
    async with peers_of(router, kind, serializer) as peers:
        for name in ("wamp.registration.on_unregister", "wamp.subscription.on_unsubscribe"):
            await peers.admin.request(SUBSCRIBE, {}, name, answer=SUBSCRIBED)
        registration = (await peers.host.request(REGISTER, {}, f"{peers.prefix}.ping", answer=REGISTERED))[2]
        await peers.host.request(UNREGISTER, registration, peers.forged(), answer=UNREGISTERED)
        assert (await event_of(peers.admin, peers.host.session))[1] == registration
        subscription = (await peers.host.request(SUBSCRIBE, {}, f"{peers.prefix}.state", answer=SUBSCRIBED))[2]
        await peers.host.request(UNSUBSCRIBE, subscription, peers.forged(), answer=UNSUBSCRIBED)
        assert (await event_of(peers.admin, peers.host.session))[1] == subscription


async def event_of(peer: Peer, session: int) -> list[Any]:
    """Return the arguments of the next event about a session; other tests make some too."""
    while (event := await peer.next(EVENT))[4][0] != session:
        pass
    return list(event[4])


@TRANSPORTS
@in_loop
async def test_results_and_errors_bear_the_name_of_who_gave_them(router: Router, kind: str, serializer: str) -> None:
    async with peers_of(router, kind, serializer) as peers:
        uri = f"{peers.prefix}.ping"
        await peers.host.request(REGISTER, {}, uri, answer=REGISTERED)
        peers.admin.send(CALL, {"receive_progress": True}, uri)
        invocation = await peers.host.next(INVOCATION)
        assert "forward_for" not in invocation[3]
        assert (invocation[3]["caller"], invocation[3]["caller_authid"]) == (peers.admin.session, peers.admin.name)
        for options in ({"progress": True}, {}):
            peers.host.post(YIELD, invocation[1], peers.forged(**options), [1])
            result = await peers.admin.next(RESULT)
            assert "forward_for" not in result[2]
            assert result[2].get("callee", peers.host.session) == peers.host.session
            assert result[2].get("callee_authid", peers.host.name) == peers.host.name
        peers.admin.send(CALL, {}, uri)
        invocation = await peers.host.next(INVOCATION)
        peers.host.post(ERROR, INVOCATION, invocation[1], peers.forged(), "io.timbr.error.timbr", ["no"])
        error = await peers.admin.next(ERROR)
        assert error[4:6] == ["io.timbr.error.timbr", ["no"]]
        assert "forward_for" not in error[3]
        assert error[3].get("callee", peers.host.session) == peers.host.session
        assert error[3].get("callee_authid", peers.host.name) == peers.host.name


@TRANSPORTS
@in_loop
async def test_a_cancelled_call_is_the_callers_own(router: Router, kind: str, serializer: str) -> None:
    async with peers_of(router, kind, serializer) as peers:
        uri = f"{peers.prefix}.ping"
        await peers.host.request(REGISTER, {}, uri, answer=REGISTERED)
        call = peers.admin.send(CALL, {}, uri)
        invocation = await peers.host.next(INVOCATION)
        peers.host.post(CANCEL, call, peers.forged(mode="kill"))  # not a call of its own
        peers.admin.post(CANCEL, call, {"mode": "kill", **peers.forged()})
        interrupt = await peers.host.next(INTERRUPT)
        assert interrupt[1] == invocation[1]
        assert "forward_for" not in interrupt[2]
        peers.host.post(ERROR, INVOCATION, invocation[1], peers.forged(), "wamp.error.canceled", [])
        error = await peers.admin.next(ERROR)
        assert (error[4], "forward_for" in error[3]) == ("wamp.error.canceled", False)


@TRANSPORTS
@pytest.mark.parametrize("sent", sorted(FATAL))
@in_loop
async def test_what_only_a_router_sends_ends_the_connection_of_who_sends_it(
    router: Router, sent: int, kind: str, serializer: str
) -> None:
    async with peers_of(router, kind, serializer) as peers:
        topic = f"{peers.prefix}.state"
        await peers.admin.request(SUBSCRIBE, {}, topic, answer=SUBSCRIBED)
        numbers = {EVENT: [1, 1], RESULT: [1], INVOCATION: [1, 1], INTERRUPT: [1]}[sent]
        peers.host.post(sent, *numbers, peers.forged())
        assert await peers.host.is_ended()
        peers.admin.send(CALL, {}, "io.timbr.kernel.list")
        await peers.admin.next(RESULT)  # and no event before it


@TRANSPORTS
@pytest.mark.parametrize("value", [5, "ceo", {}, [5], [{"session": "1"}], [{}]], ids=repr)
@in_loop
async def test_what_makes_no_sense_in_it_helps_nobody(router: Router, value: Any, kind: str, serializer: str) -> None:
    async with peers_of(router, kind, serializer) as peers:
        peers.host.send(CALL, {"forward_for": value}, "io.timbr.kernel.list")
        with suppress(ConnectionError, asyncio.IncompleteReadError):  # the protocol has no such value
            assert (await peers.host.next(ERROR))[4] == NOT_AUTHORIZED
        peers.admin.send(CALL, {}, "io.timbr.kernel.list")
        await peers.admin.next(RESULT)
