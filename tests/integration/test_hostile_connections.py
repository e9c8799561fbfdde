"""What somebody without a token may do to the router: hold a few connections for a while, and nothing else."""

from __future__ import annotations

import asyncio
import http.client
import random
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from autobahn.wamp.exception import ApplicationError
from plain_wamp import JsonSerializer, in_loop, session
from raw_sockets import (
    ABORT,
    CHALLENGE,
    GOODBYE,
    HELLO,
    WELCOME,
    RawConnection,
    joined,
    nested,
    packed,
    raw_connection,
    upgrade,
)
from wait_kit import until

from timbr_wamp.router import Router

pytestmark = pytest.mark.integration

KINDS = [(kind, serializer) for kind in ("websocket", "rawsocket") for serializer in ("json", "msgpack")]
#: More connections than the router keeps without a wamp session.
MANY = 300
CALL_LIMIT_S = 15.0
LIST = "io.timbr.kernel.list"


@asynccontextmanager
async def served(router: Router) -> AsyncIterator[Callable[[], int]]:
    """A client that calls all the time, and fails if one call is not answered; gives the number of answers."""
    answered = 0

    async def call() -> None:
        nonlocal answered
        while True:
            await asyncio.wait_for(client.call(LIST), CALL_LIMIT_S)
            answered += 1
            await asyncio.sleep(0.01)  # a pace, not a wait

    async with session(router.url, router.admin_token) as client:
        calling = asyncio.create_task(call())
        try:
            yield lambda: answered
            before = answered
            await until(lambda: answered >= before + 3 or calling.done(), "three more calls are answered")
            assert not calling.done(), calling.exception()
        finally:
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)


def log_size(router: Router) -> int:
    return (router.node_dir / "router.log").stat().st_size


@pytest.mark.parametrize(("kind", "serializer"), KINDS)
@in_loop
async def test_nested_messages_before_hello_stall_nobody(router: Router, kind: str, serializer: str) -> None:
    before = log_size(router)
    async with served(router):
        for levels in (9, 1000, 4000, 50_000):
            async with raw_connection(router, kind, serializer) as attacker:
                attacker.send(nested(levels, serializer))
                assert await attacker.is_ended()
    assert log_size(router) < before + 20_000


@pytest.mark.parametrize(("kind", "serializer"), KINDS)
@in_loop
async def test_a_large_message_before_hello_is_not_read(router: Router, kind: str, serializer: str) -> None:
    async with served(router):
        for size in (8 * 1024 + 1, 4 * 1024 * 1024, 2**31):
            async with raw_connection(router, kind, serializer) as attacker:
                attacker.send(b"", size)
                assert await attacker.is_ended()


@pytest.mark.parametrize(("kind", "serializer"), KINDS)
@in_loop
async def test_nonsense_before_hello_ends_the_connection(router: Router, kind: str, serializer: str) -> None:
    async with served(router):
        for content in (
            b"",
            b"\xff\xfe",
            b'"' * 4000,
            b"\xdd\xff\xff\xff\xff",
            packed([1], serializer),
            packed([99, 1], serializer),
        ):
            async with raw_connection(router, kind, serializer) as attacker:
                attacker.send(content)
                assert await attacker.is_ended(), content


ODD = (
    None,
    True,
    0,
    -1,
    2**63,
    1.5,
    "",
    "x" * 500,
    "\0",
    "\0AAAA",
    [],
    {},
    [1],
    {"a": 1},
    {"": {}},
    "io.timbr",
    "é",
    [[]],
)
DETAILS = (
    "roles",
    "authid",
    "authmethods",
    "authrole",
    "authextra",
    "resumable",
    "resume-session",
    "resume-token",
    "x",
)


def odd_messages(chosen: random.Random) -> Iterator[list[Any]]:
    """A HELLO with odd details, or another message in its place; then perhaps a ticket."""
    details: dict[str, Any] = dict(HELLO[2])
    for name in chosen.sample(DETAILS, chosen.randint(0, 3)):
        details[name] = chosen.choice(ODD)
    if chosen.random() < 0.3:
        details["authmethods"] = [chosen.choice(("wampcra", "scram", "cryptosign", "cookie", "tls", "anonymous", 1))]
    kind = chosen.choice((1, 1, 1, 2, 3, 4, 5, 6, 8, 16, 32, 48, 64, 68, 70, 99))
    yield [kind, chosen.choice(("timbr", "timbr", *ODD)), details]
    yield [5, chosen.choice(("wrong", *ODD)), chosen.choice(({}, *ODD))]


@pytest.mark.parametrize(("kind", "serializer"), KINDS)
@in_loop
async def test_odd_greetings_let_nobody_in_and_fill_no_log(router: Router, kind: str, serializer: str) -> None:
    before = log_size(router)
    chosen = random.Random(f"{kind} {serializer}")
    async with served(router):
        for _ in range(60):
            async with raw_connection(router, kind, serializer) as attacker:
                for message in odd_messages(chosen):
                    attacker.send(packed(message, serializer))
                attacker.send(packed([99], serializer))  # ends it, if nothing before did
                answers = await attacker.until_ended()
                assert WELCOME not in [answer[0] for answer in answers]
    assert log_size(router) < before + 20_000


@in_loop
async def test_the_log_of_a_running_router_is_kept_small(router: Router) -> None:
    path = router.node_dir / "router.log"
    with open(path, "ab") as log:
        log.write(b"a line of a flood\n" * 250_000)  # 4.5 MB
    await until(lambda: log_size(router) <= 1_000_000, "the log is small again", 60.0)
    older = path.with_name("router.log.1")
    assert 4_000_000 < older.stat().st_size <= 4 * 1024 * 1024
    assert b"\0" not in path.read_bytes()  # the router goes on at the new end


@in_loop
async def test_a_session_that_left_has_the_limits_of_one_that_never_joined(router: Router) -> None:
    async with raw_connection(router, "rawsocket", "json") as connection:
        await joined(connection, router.admin_token)
        connection.send(packed([6, {}, "wamp.close.normal"], "json"))
        assert (await connection.message())[0] == GOODBYE
        connection.send(nested(9, "json"))
        assert await connection.is_ended()


@in_loop
async def test_who_does_not_join_is_dropped_in_time(router: Router) -> None:
    async def silent(kind: str, *, hello: bool) -> bool:
        async with raw_connection(router, kind, "json") as attacker:
            if hello:
                attacker.send(packed(HELLO, "json"))  # and never the ticket
            return await attacker.is_ended(40.0)

    ended = await asyncio.gather(
        *(silent(kind, hello=hello) for kind in ("websocket", "rawsocket") for hello in (True, False))
    )
    assert all(ended)


@pytest.mark.parametrize("kind", ["websocket", "rawsocket", "nothing"])
@in_loop
async def test_many_connections_without_a_session_keep_nobody_out(router: Router, kind: str) -> None:
    where = urlsplit(router.url)
    async with served(router), AsyncExitStack() as held:
        attackers: list[RawConnection] = []
        for _ in range(MANY):
            if kind == "nothing":
                reader, writer = await asyncio.open_connection(where.hostname, where.port)
                held.callback(writer.transport.abort)
                attackers.append(RawConnection(reader, writer, kind, "json"))
            else:
                attackers.append(await held.enter_async_context(raw_connection(router, kind, "json")))
        async with session(router.url, router.admin_token) as late:
            assert isinstance(await late.call(LIST), list)
        assert await attackers[0].is_ended(CALL_LIMIT_S)  # the oldest ones made room


@pytest.mark.parametrize("protocol", ["wamp.2.cbor", "wamp.2.ubjson", "wamp.2.json.batched", "wamp.2.flatbuffers"])
@in_loop
async def test_only_json_and_msgpack_are_spoken(router: Router, protocol: str) -> None:
    status, _, writer = await upgrade(router, protocol)
    writer.transport.abort()
    assert status == 400
    for number in (3, 4, 5):  # CBOR, UBJSON, FlatBuffers
        reader, writer = await asyncio.open_unix_connection(router.unix_url.removeprefix("rs+unix://"))
        writer.write(bytes((0x7F, 0xF0 | number, 0, 0)))
        answer = await asyncio.gather(asyncio.wait_for(reader.read(), CALL_LIMIT_S), return_exceptions=True)
        writer.transport.abort()
        assert answer[0] == b"" or isinstance(answer[0], ConnectionError)


# --- with a session --------------------------------------------------------------------------


class _RawJson(JsonSerializer):  # type: ignore[misc]
    """JSON that autobahn itself would not write."""

    raw: bytes | None = None

    def serialize(self, message: Any) -> tuple[bytes, bool]:
        if self.raw is None:
            return super().serialize(message)
        raw, self.raw = self.raw, None
        return raw.replace(b"REQUEST", str(message.request).encode()), False


@in_loop
async def test_a_call_that_is_nested_too_deeply_is_answered(router: Router) -> None:
    async with session(router.url, router.admin_token) as client:
        serializer = client._transport._serializer = _RawJson()
        for levels in (126, 127, 200, 100_000):
            serializer.raw = b'[48,REQUEST,{},"io.timbr.kernel.list",' + nested(levels, "json") + b"]"
            with pytest.raises(ApplicationError) as caught:
                await client.call(LIST)
            deep = "nested deeper" in str(caught.value)
            assert deep is (levels > 127)
            assert caught.value.error == "io.timbr.error.invalid_argument"
        assert isinstance(await client.call(LIST), list)


@pytest.mark.parametrize(("kind", "serializer"), KINDS)
@in_loop
async def test_a_message_over_the_limit_of_a_session_ends_that_session_alone(
    router: Router, kind: str, serializer: str
) -> None:
    async with served(router), raw_connection(router, kind, serializer) as connection:
        await joined(connection, router.admin_token)
        connection.send(b"", 4 * 1024 * 1024 + 1)
        assert await connection.is_ended()


@in_loop
async def test_the_unix_socket_lets_nobody_in_without_a_token(router: Router) -> None:
    for details in (
        {"roles": {"caller": {}}},
        {"roles": {"caller": {}}, "authmethods": ["anonymous"]},
        {"roles": {"caller": {}}, "authmethods": ["ticket", "cookie", "tls"], "authid": "admin", "authrole": "admin"},
    ):
        async with raw_connection(router, "rawsocket", "json") as connection:
            connection.send(packed([1, "timbr", details], "json"))
            kind, *_ = await connection.message()
            if kind == CHALLENGE:
                connection.send(packed([5, "wrong", {}], "json"))
                kind, *_ = await connection.message()
            assert kind == ABORT


# --- HTTP ------------------------------------------------------------------------------------


def answer_of(router: Router, method: str = "GET", path: str = "/", body: bytes | None = None, **headers: str) -> Any:
    where = urlsplit(router.page_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10.0)
    try:
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/missing", "/ws"])
def test_the_page_may_be_framed_by_nobody_and_connects_to_this_router_alone(router: Router, path: str) -> None:
    answer = answer_of(router, path=path, Origin="http://elsewhere.example")
    if path != "/ws":
        policy = answer.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        connect = next(part for part in policy.split(";") if "connect-src" in part).split()
        assert connect == ["connect-src", "'self'", f"ws://{urlsplit(router.page_url).netloc}"]
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "a b", "[::1"]
)
def test_a_request_for_another_host_is_refused(router: Router, host: str) -> None:
    assert answer_of(router, Host=host).status == 421
    assert answer_of(router, path="/ws", Host=host, Origin=f"http://{host}").status == 421


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "192.168.7.7", "[::1]:8080"])
def test_addresses_and_localhost_are_this_host(router: Router, host: str) -> None:
    assert answer_of(router, Host=host).status == 200


def test_a_body_is_refused_before_it_is_read(router: Router) -> None:
    assert answer_of(router, "POST", body=b"x").status == 413
    where = urlsplit(router.page_url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=10.0)
    connection.putrequest("PUT", "/")
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
