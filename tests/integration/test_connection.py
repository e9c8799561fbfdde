"""`Connection` against the real router: calls, events, limits, and every way in which a link can break."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil
import pytest
import txaio
from autobahn.wamp.message import Goodbye
from wait_kit import until

from timbr_wamp.client import AsyncClient, LinkChange, connect_async
from timbr_wamp.client.connection import CallInfo, Connection, EventInfo, Subscription
from timbr_wamp.errors import (
    CallTimeout,
    ConnectionLost,
    InternalError,
    InvalidArgument,
    InvalidName,
    InvalidToken,
    LoopClosed,
    MachineFull,
    NoSuchProcedure,
    NotAuthorized,
    NotConnected,
    PayloadTooLarge,
    RemoteError,
    TokenRejected,
    TokenRevoked,
)
from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration

T = TypeVar("T")
_numbers = itertools.count()
LIMIT_S = 10.0


def in_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a test's coroutine; fail if it leaves a task behind."""

    async def checked() -> T:
        result = await asyncio.wait_for(main, 50.0)
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, f"tasks left behind: {left}"
        return result

    return asyncio.run(checked())


@dataclass
class Lab:
    """A callee with a host's token, a caller with the administrator's, and URIs of their own."""

    url: str
    callee_token: str = field(repr=False)
    caller_token: str = field(repr=False)
    kernel_id: str

    def uri(self, name: str) -> str:
        return f"io.timbr.kernel.{self.kernel_id}.{name}"

    def callee(self, **options: Any) -> Connection:
        return Connection(self.url, "timbr", self.callee_token, **options)

    def caller(self, **options: Any) -> Connection:
        return Connection(self.url, "timbr", self.caller_token, **options)


def make_lab(router: Router, url: str) -> Lab:
    name = f"conn_{next(_numbers)}"
    store = TokenStore(router.node_dir)
    return Lab(url, store.create(name, "host"), store.create(f"{name}_admin", "admin"), new_kernel_id(name))


@pytest.fixture(params=["websocket", "unix socket"])
def lab(request: pytest.FixtureRequest, router: Router) -> Iterator[Lab]:
    made = make_lab(router, router.url if request.param == "websocket" else router.unix_url)
    yield made
    for token in (made.callee_token, made.caller_token):
        with suppress(Exception):
            TokenStore(router.node_dir).revoke(token.partition(".")[0])


@pytest.fixture
def both(lab: Lab) -> Callable[[Callable[[Lab, Connection, Connection], Awaitable[None]]], None]:
    """Run a test with callee and caller open."""

    def run(test: Callable[[Lab, Connection, Connection], Awaitable[None]]) -> None:
        async def main() -> None:
            callee, caller = lab.callee(), lab.caller()
            try:
                await callee.open()
                await caller.open()
                await test(lab, callee, caller)
            finally:
                await caller.close()
                await callee.close()

        in_loop(main())

    return run


@pytest.mark.parametrize("transport", ["url", "unix_url"])
def test_the_event_loop_that_another_user_of_autobahn_set_is_not_used(router, transport):
    ended = asyncio.new_event_loop()
    ended.close()
    txaio.config.loop = ended  # as autobahn's ApplicationRunner and component.run leave it

    async def main() -> None:
        connection = Connection(getattr(router, transport), router.settings.realm, router.admin_token)
        await connection.open()
        assert connection.joined
        await connection.close()

    try:
        in_loop(main())
    finally:
        txaio.config.loop = None


# --- calls -------------------------------------------------------------------------------------


def test_a_call_carries_arguments_progress_and_who_calls(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        async def echo(args: tuple[Any, ...], kwargs: dict[str, Any], call: CallInfo) -> Any:
            if call.progress is not None:
                for number in range(3):
                    call.progress({"part": number})
            return [list(args), kwargs, call.authid, call.role, call.session]

        await callee.register(lab.uri("echo"), echo)
        parts: list[Any] = []
        result = await caller.call(lab.uri("echo"), 1, b"\xff", details=2, on_progress=parts.append)
        name = lab.caller_token.partition(".")[0]
        assert result == [[1, b"\xff"], {"details": 2}, name, "admin", caller.session_id]
        assert parts == [{"part": 0}, {"part": 1}, {"part": 2}]
        assert (caller.authid, caller.role, caller.url) == (name, "admin", lab.url)

    both(test)


def test_errors_come_back_as_the_same_class_with_the_remote_traceback(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        async def full(args: Any, kwargs: Any, call: CallInfo) -> None:
            raise MachineFull(7)

        async def boom(args: Any, kwargs: Any, call: CallInfo) -> float:
            return 1 / 0

        await callee.register(lab.uri("full"), full)
        await callee.register(lab.uri("boom"), boom)
        with pytest.raises(MachineFull) as raised:
            await caller.call(lab.uri("full"))
        assert raised.value.capacity == 7
        assert "in full" in (raised.value.remote_traceback or "")
        with pytest.raises(RemoteError, match="ZeroDivisionError: division by zero") as foreign:
            await caller.call(lab.uri("boom"))
        assert "return 1 / 0" in (foreign.value.remote_traceback or "")
        with pytest.raises(NoSuchProcedure):
            await caller.call(lab.uri("nobody"))
        with pytest.raises(NotAuthorized):
            await callee.call(lab.uri("full"))

    both(test)


def test_a_call_that_takes_too_long_is_cancelled_at_the_callee(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def slow(args: Any, kwargs: Any, call: CallInfo) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

        await callee.register(lab.uri("slow"), slow)
        while not entered.is_set():  # on a busy computer the time may be over before the call is there
            with pytest.raises(CallTimeout):
                await caller.call(lab.uri("slow"), timeout_s=0.2)
        await asyncio.wait_for(cancelled.wait(), LIMIT_S)
        entered.clear()
        cancelled.clear()
        task = asyncio.ensure_future(caller.call(lab.uri("slow")))
        await asyncio.wait_for(entered.wait(), LIMIT_S)
        task.cancel()
        await asyncio.wait_for(cancelled.wait(), LIMIT_S)
        await asyncio.wait([task])

    both(test)


def test_a_call_that_its_caller_cancels_is_cancelled_at_the_callee(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        entered, cancelled = asyncio.Event(), asyncio.Event()

        async def wait_for_ever(args: Any, kwargs: Any, call: CallInfo) -> None:
            entered.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled.set()
                raise

        await callee.register(lab.uri("execute"), wait_for_ever)
        client = await connect_async(lab.url, lab.caller_token)
        calling = asyncio.create_task(client.call(lab.uri("execute"), timeout_s=None))
        await asyncio.wait_for(entered.wait(), LIMIT_S)
        assert client.statistics.calls == 1
        calling.cancel()
        await asyncio.wait_for(cancelled.wait(), LIMIT_S)
        await until(lambda: calling.cancelled() and not client.statistics.calls)
        entered.clear()
        calling = asyncio.create_task(client.call(lab.uri("execute"), timeout_s=None))
        await asyncio.wait_for(entered.wait(), LIMIT_S)
        assert (await client.close()).calls == 1
        with pytest.raises((ConnectionLost, LoopClosed)):
            await calling

    both(test)


def test_what_is_too_large_is_refused_and_the_link_stays(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        async def big(args: tuple[int], kwargs: Any, call: CallInfo) -> str:
            return "x" * args[0]

        await callee.register(lab.uri("big"), big)
        before = caller.session_id, callee.session_id
        with pytest.raises(PayloadTooLarge) as raised:
            await caller.call(lab.uri("big"), "x" * 50_000_000)
        assert raised.value.size_bytes > 50_000_000
        with pytest.raises(PayloadTooLarge):
            await caller.call(lab.uri("big"), 3_000_000)
        with pytest.raises(PayloadTooLarge):
            callee.publish(lab.uri("state"), "x" * 3_000_000)
        assert len(await caller.call(lab.uri("big"), 900_000)) == 900_000
        assert (caller.session_id, callee.session_id) == before

    both(test)


def test_what_cannot_be_sent_is_refused_before_the_wire(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        before = callee.session_id
        with pytest.raises(InvalidArgument):
            await caller.call(lab.uri("ping"), object())
        for uri in ("io..timbr", "io.timbr.", "io timbr", ""):
            with pytest.raises(InvalidName):
                await callee.register(uri, _nothing)
            with pytest.raises(InvalidName):
                await callee.subscribe(uri, _ignore)
        with pytest.raises(NotAuthorized):
            await callee.register("io.timbr.kernel.other_0123456789ab.info", _nothing)
        await callee.register(lab.uri("info"), _nothing)
        with pytest.raises(InvalidArgument):
            await callee.register(lab.uri("info"), _nothing)
        assert callee.session_id == before

    both(test)


def test_unregister_and_register_again(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        registration = await callee.register(lab.uri("info"), _nothing)
        assert await caller.call(lab.uri("info")) is None
        await registration.unregister()
        await registration.unregister()
        with pytest.raises(NoSuchProcedure):
            await caller.call(lab.uri("info"))
        await callee.register(lab.uri("info"), _nothing)
        assert await caller.call(lab.uri("info")) is None

    both(test)


async def _nothing(args: Any, kwargs: Any, call: CallInfo) -> None:
    return None


def _ignore(*args: Any, details: EventInfo, **kwargs: Any) -> None:
    """Take an event."""


# --- events ------------------------------------------------------------------------------------


class Heard:
    """A handler that keeps what it heard."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.infos: list[EventInfo] = []

    def __call__(self, *args: Any, details: EventInfo, **kwargs: Any) -> None:
        self.events.append((*args, kwargs) if kwargs else args)
        self.infos.append(details)


async def published(connection: Connection, topic: str, *args: Any, retain: bool = False) -> None:
    """Publish an event and wait until the router has it: it handles the messages of one session in order."""
    assert connection.publish(topic, *args, retain=retain)
    with suppress(NotAuthorized):  # a refusal is an answer, too
        await connection.call("wamp.subscription.match", topic)


def test_events_reach_each_handler_in_order_and_retained_ones_who_asks(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        topic = lab.uri("state")
        await published(callee, topic, "kept", retain=True)
        first, second = Heard(), Heard()
        one = await caller.subscribe(topic, first)
        two = await caller.subscribe(topic, second, get_retained=True)
        await until(lambda: second.events)
        assert second.infos[0].retained
        for number in range(50):
            assert callee.publish(topic, number)
        assert callee.publish(topic, "last", extra=1)
        expected = [*((number,) for number in range(50)), ("last", {"extra": 1})]
        await until(lambda: len(second.events) == 52 and len(first.events) == 51)
        assert first.events == expected
        assert second.events == [("kept",), *expected]
        assert first.infos[0].topic == topic
        await one.unsubscribe()
        await one.unsubscribe()
        await published(callee, topic, "more")
        await until(lambda: second.events[-1] == ("more",))
        assert first.events == expected
        await two.unsubscribe()
        await caller.subscribe(topic, first)
        await published(callee, topic, "again")
        await until(lambda: first.events[-1] == ("again",))

    both(test)


def test_a_request_that_is_cancelled_costs_no_connection_when_its_event_or_invocation_comes(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        sessions, seen = (callee.session_id, caller.session_id), []
        topic, uri = lab.uri("state"), lab.uri("echo")

        def handler(*args: Any, details: EventInfo) -> None:
            seen.append(args[0])

        for steps in range(6):
            asking: list[asyncio.Task[Any]] = [
                asyncio.create_task(caller.subscribe(topic, handler)),
                asyncio.create_task(callee.register(uri, echo)),
            ]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in asking:
                task.cancel()
            await asyncio.wait(asking)
            callee.publish(topic, steps)
            with suppress(NoSuchProcedure):
                await caller.call(uri, steps)
            for made in [task.result() for task in asking if not task.cancelled()]:  # the router was quicker
                await (made.unsubscribe if isinstance(made, Subscription) else made.unregister)()
        seen.clear()
        await caller.subscribe(topic, handler)
        await callee.register(uri, echo)
        assert await caller.call(uri, "now") == "now"
        callee.publish(topic, "now")
        await until(lambda: "now" in seen)
        assert seen == ["now"]
        assert sessions == (callee.session_id, caller.session_id)

    async def echo(args: Any, kwargs: Any, call: CallInfo) -> Any:
        return args[0]

    both(test)


def test_an_unexpected_error_ends_the_connection_with_its_class(lab):
    async def joined() -> None:
        raise KeyError("a fault of ours")

    async def main() -> None:
        connection = lab.callee(on_join=joined)
        with pytest.raises(InternalError, match="KeyError: 'a fault of ours'"):
            await connection.open()
        assert isinstance(await connection.wait_finished(), InternalError)
        with pytest.raises(InternalError):
            await connection.call("wamp.session.count")

    in_loop(main())


def test_a_failing_handler_does_not_disturb_the_others(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        def bad(*args: Any, details: EventInfo) -> None:
            raise ValueError("no")

        heard = Heard()
        await caller.subscribe(lab.uri("state"), bad)
        await caller.subscribe(lab.uri("state"), heard)
        await published(callee, lab.uri("state"), 1)
        await published(callee, lab.uri("state"), 2)
        await until(lambda: len(heard.events) >= 2)
        assert heard.events == [(1,), (2,)]

    both(test)


# --- joining and leaving -----------------------------------------------------------------------


def test_a_wrong_token_is_final_and_says_so_at_once(lab):
    async def main() -> None:
        connection = Connection(lab.url, "timbr", lab.caller_token + "x")
        with pytest.raises(TokenRejected):
            await connection.open(timeout_s=LIMIT_S)
        assert isinstance(connection.failed, TokenRejected)
        with pytest.raises(TokenRejected):
            await connection.call("io.timbr.kernel.list")
        assert not connection.publish("io.timbr.kernel.discovery")

    in_loop(main())
    for text in ("", "name", "name.", ".secret"):
        with pytest.raises(InvalidToken):
            Connection(lab.url, "timbr", text)


def test_a_realm_that_the_router_does_not_have_is_final_and_says_so_at_once(lab):
    async def main() -> None:
        connection = Connection(lab.url, "nowhere", lab.caller_token)
        with pytest.raises(NotConnected, match="no realm 'nowhere'; realms: timbr"):
            await connection.open(timeout_s=10 * LIMIT_S)

    in_loop(main())
    for text in ("", "ab", "two words", "1st"):  # the router would drop the connection without a word
        with pytest.raises(InvalidName):
            Connection(lab.url, text, lab.caller_token)


def test_a_missing_router_is_reported_in_time(free_port):
    async def main() -> None:
        connection = Connection(f"ws://127.0.0.1:{free_port}/ws", "timbr", "ada.secret")
        with pytest.raises(NotConnected, match="nothing listens on"):
            await connection.open(timeout_s=2.0)
        await connection.close()
        with pytest.raises(InvalidArgument):
            await Connection("http://127.0.0.1/", "timbr", "ada.secret").open()

    in_loop(main())


def test_an_address_that_is_no_websocket_is_refused_at_once(router):
    async def main() -> None:
        connection = Connection(router.url.replace("/ws", "/nowhere"), "timbr", "ada.secret")
        with pytest.raises(NotConnected, match="HTTP status"):
            await connection.open(timeout_s=10 * LIMIT_S)

    in_loop(main())


def test_a_revoked_token_ends_the_connection_for_good(lab, router):
    async def main() -> None:
        reasons: list[str] = []
        connection = lab.caller(on_leave=reasons.append)
        await connection.open()
        TokenStore(router.node_dir).revoke(lab.caller_token.partition(".")[0])
        error = await asyncio.wait_for(connection.wait_finished(), LIMIT_S)
        assert isinstance(error, TokenRevoked)
        assert reasons == [TokenRevoked.uri]
        with pytest.raises(TokenRevoked):
            await connection.call("io.timbr.kernel.list")
        await connection.close()

    in_loop(main())


def test_a_registration_that_another_session_took_is_noticed_and_made_again_when_that_one_leaves(lab, caplog):
    async def main() -> None:
        uri, answers = lab.uri("who"), dict[str, Connection]()
        caller = lab.caller()
        await caller.open(LIMIT_S)
        for name in ("first", "second"):
            answers[name] = lab.callee()
            await answers[name].open(LIMIT_S)

            async def endpoint(args: object, kwargs: object, info: CallInfo, name: str = name) -> str:
                return name

            await answers[name].register(uri, endpoint)
            assert await caller.call(uri) == name
        await answers["second"].close()
        again = await until(lambda: caller.call(uri), "somebody answers", not_yet=(NoSuchProcedure, ConnectionLost))
        assert again == "first"
        await answers["first"].close()
        await caller.close()

    in_loop(main())
    assert "is answered by another session now" in caplog.text


def test_a_session_killed_without_a_reason_comes_back(both):
    async def test(lab: Lab, callee: Connection, caller: Connection) -> None:
        await callee.register(lab.uri("info"), _nothing)
        before = callee.session_id
        # A goodbye of the router's own, without a reason, which ends autobahn's Component for ever.
        assert callee._session is not None
        callee._session.onMessage(Goodbye("wamp.close.normal"))
        await until(lambda: callee.joined and callee.session_id not in (None, before))
        assert await caller.call(lab.uri("info")) is None

    both(test)


def test_closing_twice_is_fine_and_what_follows_is_refused(lab):
    async def main() -> None:
        reasons: list[str] = []
        connection = lab.caller(on_leave=reasons.append)
        await connection.open()
        await connection.close()
        await connection.close()
        assert len(reasons) == 1
        with pytest.raises(NotConnected, match="closed"):
            await connection.call("io.timbr.kernel.list")
        assert connection.publish("io.timbr.kernel.discovery") is False

    in_loop(main())


# --- the router dies ---------------------------------------------------------------------------


def kill(router: Router) -> None:
    """End the router's processes with SIGKILL, as a crash would."""
    processes = [*psutil.Process(router.pid).children(recursive=True), psutil.Process(router.pid)]
    for process in processes:
        with suppress(psutil.Error):
            process.send_signal(signal.SIGKILL)
    psutil.wait_procs(processes[:-1], timeout=LIMIT_S)
    router.stop()  # waits for what is ended already


def test_a_router_that_does_not_read_fills_no_memory_and_a_lost_link_is_told(own_settings: Settings, free_port: int):
    router = Router.start(own_settings, port=free_port)
    calls = 60

    def signal_all(number: int) -> None:
        for process in [*psutil.Process(router.pid).children(recursive=True), psutil.Process(router.pid)]:
            process.send_signal(number)

    async def answer_of(client: AsyncClient) -> Exception | None:
        try:
            await client.call("io.timbr.kernel.list", "x" * 1_000_000)
        except InvalidArgument as error:
            return error
        return None

    async def main() -> list[LinkChange]:
        changes: list[LinkChange] = []
        client = await connect_async(settings=own_settings)
        publisher = Connection(router.url, "timbr", router.admin_token)
        await publisher.open()
        client.on_link(lambda change: 1 / 0)  # the others are told all the same
        client.on_link(changes.append)
        end = client.on_link(lambda change: changes.append(change))
        end()
        signal_all(signal.SIGSTOP)
        try:
            under_way = [asyncio.ensure_future(answer_of(client)) for _ in range(calls)]
            await until(lambda: client.statistics.paced and client.statistics.calls == calls)
            assert client.statistics.send_bytes < 6_000_000
            while publisher.publish("io.timbr.kernel.discovery", "x" * 900_000):
                assert publisher.buffered_bytes() < 20_000_000
            assert publisher.buffered_bytes() > 10_000_000
        finally:
            signal_all(signal.SIGCONT)
        answers = await asyncio.wait_for(asyncio.gather(*under_way), 40.0)
        assert all(isinstance(answer, InvalidArgument) for answer in answers)
        assert await client.drain(LIMIT_S)
        await publisher.close()
        kill(router)
        await until(lambda: changes)
        waiting = asyncio.ensure_future(client.call("io.timbr.kernel.list"))
        with pytest.raises(NotConnected):
            await waiting
        again = await asyncio.to_thread(lambda: Router.start(own_settings, port=free_port))
        try:
            await client.wait_connected(LIMIT_S)
            await until(lambda: len(changes) == 2)
            assert client.statistics.reconnections == 1
            assert client.statistics.connected
            assert not await client.close()
            assert not await client.close()
        finally:
            await asyncio.to_thread(again.stop)
        return changes

    try:
        changes = in_loop(main())
    except BaseException:
        router.stop()
        raise
    assert [(change.connected, change.reconnections) for change in changes] == [(False, 0), (True, 1)]
    assert changes[0].reason
    assert changes[0].time <= changes[1].time


@pytest.mark.parametrize("way", ["url", pytest.param("unix_url", marks=pytest.mark.soak)])
def test_after_a_crash_of_the_router_everything_is_as_before(own_settings: Settings, free_port: int, way: str):
    router = Router.start(own_settings, port=free_port)
    lab = make_lab(router, getattr(router, way))
    routers = [router]

    async def main() -> None:
        joins: list[int | None] = []
        reasons: list[str] = []
        entered = asyncio.Event()

        async def on_join() -> None:
            joins.append(callee.session_id)

        async def wait_for_ever(args: Any, kwargs: Any, call: CallInfo) -> None:
            entered.set()
            await asyncio.Event().wait()

        callee, caller, heard = lab.callee(on_join=on_join), lab.caller(on_leave=reasons.append), Heard()
        await callee.open()
        await caller.open()
        await callee.register(lab.uri("execute"), wait_for_ever)
        await callee.register(lab.uri("info"), _nothing)
        await caller.subscribe(lab.uri("state"), heard)
        under_way = asyncio.ensure_future(caller.call(lab.uri("execute")))
        await asyncio.wait_for(entered.wait(), LIMIT_S)

        await asyncio.to_thread(kill, router)
        with pytest.raises(ConnectionLost):
            await asyncio.wait_for(under_way, 3.0)
        assert reasons
        assert not caller.joined
        with pytest.raises(NotConnected):
            await caller.call(lab.uri("info"))
        assert caller.publish(lab.uri("state"), 1) is False
        later = Heard()
        await caller.subscribe(lab.uri("state"), later)  # remembered until there is a link

        routers[0] = await asyncio.to_thread(lambda: Router.start(own_settings, port=free_port))
        await callee.wait_joined(LIMIT_S)
        await caller.wait_joined(LIMIT_S)
        assert await caller.call(lab.uri("info")) is None
        await published(callee, lab.uri("state"), "back")
        await until(lambda: heard.events == later.events == [("back",)])
        assert len(joins) == 2
        assert joins[1] == callee.session_id
        await caller.close()
        await callee.close()

    try:
        in_loop(main())
    finally:
        routers[0].stop()
