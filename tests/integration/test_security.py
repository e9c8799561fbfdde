"""Nothing is open: who may join, and what each role may do, against the real router."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from autobahn.wamp import message as wamp
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallDetails, CallOptions, PublishOptions, RegisterOptions, SubscribeOptions
from plain_wamp import PlainSession, Refused, in_loop, kernel_info, session

from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore

pytestmark = pytest.mark.integration

NOT_AUTHORIZED = "wamp.error.not_authorized"
DISCOVERY = "io.timbr.kernel.discovery"
ACKNOWLEDGED = PublishOptions(acknowledge=True)

_numbers = itertools.count()


@pytest.fixture
def token(router: Router) -> Iterator[Callable[..., str]]:
    """Make tokens for one test: ``token("viewer")``."""
    store, made = TokenStore(router.node_dir), []

    def make(role: str, name: str | None = None) -> str:
        name = name or f"{role}_{next(_numbers)}"
        made.append(name)
        return store.create(name, role)

    yield make
    for name in {info.name for info in store.list()} & set(made):
        store.revoke(name)


async def check_refused(attempt: object, reason: str = NOT_AUTHORIZED) -> None:
    with pytest.raises(ApplicationError) as caught:
        await attempt
    assert caught.value.error == reason


# --- joining ---------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["admin.wrong", "nobody.wrong", "admin.", "Admin!.x"])
@in_loop
async def test_a_wrong_token_does_not_join(router: Router, wrong: str) -> None:
    with pytest.raises(Refused) as caught:
        async with session(router.url, wrong):
            pass
    assert caught.value.args[0] == NOT_AUTHORIZED
    assert "wrong" not in caught.value.args[1]


@in_loop
async def test_nobody_joins_without_a_token(router: Router) -> None:
    with pytest.raises(Refused):
        async with session(router.url, None):
            pass


@in_loop
async def test_a_token_joins_the_nodes_realm_alone(router: Router) -> None:
    with pytest.raises(Refused):
        async with session(router.url, router.admin_token, realm="crossbar"):
            pass


@in_loop
async def test_the_role_is_the_tokens_whatever_the_client_asks_for(router: Router, token: Callable[..., str]) -> None:
    class Greedy(PlainSession):
        def onConnect(self) -> None:
            self.join(self.config.realm, ["ticket"], self.token.partition(".")[0], authrole="admin")

    async with session(router.url, token("viewer"), kind=Greedy) as viewer:
        assert viewer.details.authrole == "viewer"


@in_loop
async def test_a_new_token_joins_at_once(router: Router, token: Callable[..., str]) -> None:
    async with session(router.url, token("viewer")) as viewer:
        assert isinstance(await viewer.call("io.timbr.kernel.list"), list)


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
@in_loop
async def test_pages_from_elsewhere_may_not_open_the_websocket(router: Router, origin: str) -> None:
    with pytest.raises(Refused):
        async with session(router.url, router.admin_token, origin=origin):
            pass


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
@in_loop
async def test_our_own_page_may_open_the_websocket(router: Router, name: str) -> None:
    port = router.url.split(":")[2].split("/")[0]
    async with session(router.url, router.admin_token, origin=f"http://{name}:{port}") as admin:
        assert admin.details.authrole == "admin"


# --- revoking --------------------------------------------------------------------------------


@in_loop
async def test_revoking_a_token_ends_its_sessions_with_the_reason(router: Router, token: Callable[..., str]) -> None:
    text = token("viewer", "short_lived")
    async with session(router.url, text) as first, session(router.url, text) as second:
        TokenStore(router.node_dir).revoke("short_lived")
        reasons = await asyncio.wait_for(asyncio.gather(first.left, second.left), 5.0)
        assert reasons == ["io.timbr.error.token_revoked"] * 2
    with pytest.raises(Refused):
        async with session(router.url, text):
            pass


@in_loop
async def test_when_the_revoke_command_returns_nothing_is_answered_any_more(
    router: Router, token: Callable[..., str]
) -> None:
    command = [sys.executable, "-m", "timbr_wamp", "token", "revoke", "revoked_now"]
    async with session(router.url, token("admin", "revoked_now"), kind=Deaf) as deaf:
        await deaf.call("io.timbr.kernel.list")
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, timeout=30.0)
        assert done.returncode == 0, done.stderr
        if deaf.is_attached():
            late = deaf.call("io.timbr.kernel.list")
            late.add_done_callback(lambda done: done.exception())
        assert await asyncio.wait_for(deaf.left, 5.0) == "wamp.close.transport_lost"
        assert deaf.after == []


@in_loop
async def test_revoking_a_token_leaves_others_alone(router: Router, token: Callable[..., str]) -> None:
    kept, gone = token("viewer"), token("viewer", "gone")
    async with session(router.url, kept) as other, session(router.url, gone) as leaving:
        TokenStore(router.node_dir).revoke("gone")
        await asyncio.wait_for(leaving.left, 5.0)
        assert isinstance(await other.call("io.timbr.kernel.list"), list)


@in_loop
async def test_a_token_made_again_ends_the_sessions_of_the_former(router: Router, token: Callable[..., str]) -> None:
    former = token("viewer", "again")
    async with session(router.url, former) as old:
        TokenStore(router.node_dir).revoke("again")
        newer = TokenStore(router.node_dir).create("again", "operator")
        async with session(router.url, newer) as new:
            assert new.details.authrole == "operator"
            assert await asyncio.wait_for(old.left, 5.0) == "io.timbr.error.token_revoked"
            await new.call("io.timbr.kernel.list")


class Deaf(PlainSession):
    """Takes a GOODBYE for nothing, and keeps what comes after it."""

    def onConnect(self) -> None:
        super().onConnect()
        self.goodbye_seen = asyncio.Event()
        self.after: list[object] = []

    def onMessage(self, message: object) -> None:
        if type(message).__name__ == "Goodbye":
            self.goodbye_seen.set()
        elif self.goodbye_seen.is_set():
            self.after.append(message)
        else:
            super().onMessage(message)


def chatter(ended: asyncio.Event) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return a procedure that gives output all the time, until its call is cancelled."""

    async def execute(details: CallDetails) -> None:
        try:
            for number in itertools.count():
                details.progress(number)
                await asyncio.sleep(0.005)  # a pace, not a wait
        finally:
            ended.set()

    return execute


@in_loop
async def test_a_session_that_ignores_the_goodbye_gets_nothing_more(router: Router, token: Callable[..., str]) -> None:
    kernel_id = new_kernel_id("lab_deaf")
    topic, procedure = f"io.timbr.kernel.{kernel_id}.state", f"io.timbr.kernel.{kernel_id}.execute_interactive"
    ended = asyncio.Event()
    async with session(router.url, token("host", "lab_deaf")) as bridge:
        await bridge.register(chatter(ended), procedure, options=RegisterOptions(details_arg="details"))
        admin_token = token("admin", "deaf")
        async with session(router.url, admin_token, kind=Deaf) as deaf:
            await deaf.listen(topic)
            seen = asyncio.Event()
            call = deaf.call(procedure, options=CallOptions(on_progress=lambda _: seen.set()))
            call.add_done_callback(lambda done: done.exception())
            await asyncio.wait_for(seen.wait(), 5.0)
            TokenStore(router.node_dir).revoke("deaf")
            await asyncio.wait_for(deaf.goodbye_seen.wait(), 5.0)
            await bridge.publish(topic, {"state": "busy"}, options=ACKNOWLEDGED)
            assert await asyncio.wait_for(deaf.left, 5.0) == "wamp.close.transport_lost"
            assert deaf.after == []
        await asyncio.wait_for(ended.wait(), 5.0)  # its call ended with it


@in_loop
async def test_a_revoked_session_that_reads_nothing_is_dropped_too(router: Router, token: Callable[..., str]) -> None:
    """Its GOODBYE does not get through, because it took nothing for long."""
    kernel_id = new_kernel_id("lab_full")
    topic = f"io.timbr.kernel.{kernel_id}.state"
    async with (
        session(router.url, token("host", "lab_full")) as bridge,
        session(router.url, token("viewer", "full")) as full,
        session(router.url, router.admin_token) as watcher,
    ):
        await full.listen(topic)
        await watcher.listen("wamp.session.on_leave")
        full._transport.transport.pause_reading()
        for _ in range(20):
            await bridge.publish(topic, "x" * 1_000_000, options=ACKNOWLEDGED)
        TokenStore(router.node_dir).revoke("full")
        left = await watcher.event()
        while left != full.details.session:  # others of this router's come and go
            left = await watcher.event()
        assert left == full.details.session
        full.cut()


@in_loop
async def test_a_revoked_host_loses_what_it_registered(router: Router, token: Callable[..., str]) -> None:
    kernel_id = new_kernel_id("lab_gone")
    async with session(router.url, token("host", "lab_gone"), kind=Deaf) as host:
        await host.register(lambda: 1, f"io.timbr.kernel.{kernel_id}.info")
        async with session(router.url, token("viewer")) as viewer:
            assert await viewer.call(f"io.timbr.kernel.{kernel_id}.info") == 1
            TokenStore(router.node_dir).revoke("lab_gone")
            await asyncio.wait_for(host.left, 5.0)
            await check_refused(viewer.call(f"io.timbr.kernel.{kernel_id}.info"), "wamp.error.no_such_procedure")


# --- viewer, operator, admin -----------------------------------------------------------------

K = "io.timbr.kernel.lab_aaaaaaaaaaaa"
READ = ("io.timbr.kernel.list", f"{K}.info", f"{K}.machine.status", f"{K}.second.records", "io.timbr.host.lab.list")
OPERATE = (f"{K}.interrupt", f"{K}.machine.put", f"{K}.machine.start")
ADMIN = (f"{K}.execute", f"{K}.shutdown", f"{K}.machine.slot_set", f"{K}.machine.trial", "io.timbr.host.lab.start")
NOBODY = ("io.timbr.node.authorize", "io.timbr.node.announce", "wamp.session.kill", "wamp.session.add_testament")
HARMLESS = {"wamp.error.no_such_procedure", "wamp.error.invalid_argument", "wamp.error.runtime_error"}


async def may_call(caller: PlainSession, uri: str) -> bool:
    """Tell whether the router lets the call through; nobody answers to most of these."""
    outcome: object = (await asyncio.gather(caller.call(uri), return_exceptions=True))[0]
    reason = outcome.error if isinstance(outcome, ApplicationError) else None
    assert reason in HARMLESS | {NOT_AUTHORIZED, None}, outcome
    return reason != NOT_AUTHORIZED


@pytest.mark.parametrize(
    ("role", "allowed"),
    [("viewer", {*READ}), ("operator", {*READ, *OPERATE}), ("admin", {*READ, *OPERATE, *ADMIN})],
)
@in_loop
async def test_a_role_calls_what_its_class_allows(
    router: Router, token: Callable[..., str], role: str, allowed: set[str]
) -> None:
    async with session(router.url, token(role)) as caller:
        for uri in (*READ, *OPERATE, *ADMIN, *NOBODY):
            assert await may_call(caller, uri) is (uri in allowed), uri


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
@in_loop
async def test_people_neither_register_nor_publish(router: Router, token: Callable[..., str], role: str) -> None:
    async with session(router.url, token(role)) as person:
        await check_refused(person.register(lambda: None, f"{K}.machine.status"))
        await check_refused(person.publish(f"{K}.machine.status", 1, options=ACKNOWLEDGED))
        await check_refused(person.publish("io.timbr.kernel.discovery", 1, options=ACKNOWLEDGED))


@in_loop
async def test_a_viewer_subscribes_to_read_topics_exactly(router: Router, token: Callable[..., str]) -> None:
    async with session(router.url, token("viewer")) as viewer:
        for topic in ("io.timbr.kernel.discovery", f"{K}.state", f"{K}.machine", f"{K}.machine.records"):
            await viewer.listen(topic)
        await check_refused(viewer.listen(f"{K}.iopub"))
        await check_refused(viewer.listen("wamp.session.on_join"))
        for prefix in ("", "io.timbr.kernel.", f"{K}.machine"):
            await check_refused(viewer.listen(prefix, match="prefix"))
        await check_refused(viewer.listen("io.timbr.kernel..state", match="wildcard"))


@in_loop
async def test_an_admin_may_subscribe_by_patterns(router: Router, token: Callable[..., str]) -> None:
    kernel_id = new_kernel_id("lab_seen")
    async with (
        session(router.url, token("host", "lab_seen")) as bridge,
        session(router.url, router.admin_token) as admin,
    ):
        await admin.listen(f"io.timbr.kernel.{kernel_id}", match="prefix")
        await admin.listen("io.timbr.kernel..iopub", match="wildcard")
        await admin.listen(f"io.timbr.kernel.{kernel_id}.iopub")
        await bridge.publish(f"io.timbr.kernel.{kernel_id}.iopub", "said", options=ACKNOWLEDGED)
        assert [await admin.event() for _ in range(3)] == ["said"] * 3


# --- hosts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "other"),
    [("lab_x", "lab_x_2"), ("lab_x_2", "lab_x"), ("lab_x", "lab_x_aaaaaaaaaaaa"), ("lab_x_aaaaaaaaaaaa", "lab_x")],
)
@in_loop
async def test_a_host_stays_in_its_own_prefix(router: Router, token: Callable[..., str], own: str, other: str) -> None:
    mine, theirs = new_kernel_id(own), new_kernel_id(other)
    async with session(router.url, token("host", own)) as bridge:
        await bridge.register(lambda: 1, f"io.timbr.kernel.{mine}.ping")
        await bridge.register(lambda: 1, f"io.timbr.kernel.{mine}.machine.status")
        await bridge.register(lambda: 1, f"io.timbr.host.{own}.list")
        await bridge.publish(f"io.timbr.kernel.{mine}.state", {}, options=ACKNOWLEDGED)
        for uri in (
            f"io.timbr.kernel.{theirs}.ping",
            f"io.timbr.kernel.{mine}_2.ping",
            f"io.timbr.kernel.{own}.ping",
            f"io.timbr.host.{other}.list",
            f"io.timbr.stream.{other}.x",
            "io.timbr.kernel.list",
            "io.timbr.node.authorize",
        ):
            await check_refused(bridge.register(lambda: 1, uri, options=RegisterOptions(force_reregister=True)))
            await check_refused(bridge.publish(uri, 1, options=ACKNOWLEDGED))
        await check_refused(bridge.call("io.timbr.node.announce", kernel_info(theirs)), "io.timbr.error.not_authorized")


@in_loop
async def test_the_answer_about_one_name_is_not_kept_for_another(router: Router, token: Callable[..., str]) -> None:
    """Crossbar's own cache of answers does not look at the name, only at the role."""
    mine, theirs = new_kernel_id("lab_own"), new_kernel_id("lab_other")
    async with (
        session(router.url, token("host", "lab_own")) as own,
        session(router.url, token("host", "lab_other")) as other,
    ):
        for _ in range(3):
            await own.publish(f"io.timbr.kernel.{mine}.state", {}, options=ACKNOWLEDGED)
            await check_refused(other.publish(f"io.timbr.kernel.{mine}.state", {}, options=ACKNOWLEDGED))
            await other.publish(f"io.timbr.kernel.{theirs}.state", {}, options=ACKNOWLEDGED)
            await check_refused(own.publish(f"io.timbr.kernel.{theirs}.state", {}, options=ACKNOWLEDGED))


@pytest.mark.parametrize(("uri", "match"), [("ping", "prefix"), ("", "prefix"), (".status", "wildcard")])
@in_loop
async def test_a_host_may_not_register_patterns(
    router: Router, token: Callable[..., str], uri: str, match: str
) -> None:
    name = f"host_{next(_numbers)}"
    async with session(router.url, token("host", name)) as bridge:
        pattern = f"io.timbr.kernel.{new_kernel_id(name)}.{uri}"
        await check_refused(bridge.register(lambda: 1, pattern, options=RegisterOptions(match=match)))


@in_loop
async def test_a_host_calls_and_hears_only_what_a_bridge_needs(router: Router, token: Callable[..., str]) -> None:
    name = f"host_{next(_numbers)}"
    kernel_id = new_kernel_id(name)
    async with session(router.url, token("host", name)) as bridge:
        await bridge.listen("io.timbr.kernel.discovery")
        await bridge.listen("io.timbr.node.interest")
        for uri in (f"{K}.execute", f"io.timbr.kernel.{kernel_id}.execute", "wamp.session.list", "wamp.session.kill"):
            await check_refused(bridge.call(uri))
        await check_refused(bridge.call("wamp.subscription.match", f"io.timbr.kernel.{kernel_id}.machine.records"))
        await bridge.listen(f"io.timbr.kernel.{kernel_id}.state")
        for secret_topic in (
            f"{K}.state",
            f"{K}.machine.records",
            f"{K}.iopub",
            "wamp.session.on_join",
            "wamp.subscription.on_create",
        ):
            await check_refused(bridge.listen(secret_topic))
        await check_refused(bridge.listen("io.timbr.", match="prefix"))


@in_loop
async def test_wrong_arguments_of_the_node_get_our_error(router: Router) -> None:
    async with session(router.url, router.admin_token) as admin, session(router.url, router.host_token) as host:
        await check_refused(admin.call("io.timbr.kernel.list", 1), "io.timbr.error.invalid_argument")
        await check_refused(admin.call("io.timbr.kernel.list", details=1), "io.timbr.error.invalid_argument")
        for args, kwargs in (((), {}), ((1, 2), {}), ((), {"other": 1}), ((1,), {"kernel": 1})):
            await check_refused(host.call("io.timbr.node.announce", *args, **kwargs), "io.timbr.error.invalid_argument")


@in_loop
async def test_only_a_bridge_hears_what_topics_are_wanted(router: Router, token: Callable[..., str]) -> None:
    for role in ("viewer", "operator"):
        async with session(router.url, token(role)) as person:
            await check_refused(person.listen("io.timbr.node.interest"))


# --- speaking for others ---------------------------------------------------------------------


@in_loop
async def test_nobody_speaks_for_another_wamp_session(router: Router, token: Callable[..., str]) -> None:
    name, other = f"host_{next(_numbers)}", f"host_{next(_numbers)}"
    victim = new_kernel_id(name)
    async with session(router.url, token("host", name)) as bridge, session(router.url, token("host", other)) as forger:
        await bridge.call("io.timbr.node.announce", kernel_info(victim))
        principal = {"session": forger._session_id, "authid": name, "authrole": "host"}
        forged = CallOptions(forward_for=[principal])
        lie = kernel_info(victim) | {"name": "a lie"}
        await check_refused(forger.call("io.timbr.node.announce", lie, options=forged))
        own = f"io.timbr.kernel.{new_kernel_id(other)}"
        for attempt in (
            forger.publish(f"{own}.state", {}, options=PublishOptions(acknowledge=True, forward_for=[principal])),
            forger.register(lambda: 1, f"{own}.ping", options=RegisterOptions(forward_for=[principal])),
            forger.subscribe(lambda: 1, DISCOVERY, options=SubscribeOptions(forward_for=[principal])),
        ):
            await check_refused(attempt)
        await bridge.call("io.timbr.node.announce", kernel_info(victim))  # it still represents its kernel
    async with session(router.url, router.admin_token) as admin:
        (kernel,) = [each for each in await admin.call("io.timbr.kernel.list") if each["kernel_id"] == victim]
        assert kernel["name"] == "test"


@in_loop
async def test_a_result_bears_the_name_of_who_gave_it(router: Router, token: Callable[..., str]) -> None:
    name = f"host_{next(_numbers)}"

    class Forger(PlainSession):
        def onMessage(self, message: Any) -> None:
            if isinstance(message, wamp.Invocation):
                principal = {"session": 1, "authid": "lab", "authrole": "host"}
                self._transport.send(wamp.Yield(message.request, args=[1], forward_for=[principal]))
            else:
                super().onMessage(message)

    async with (
        session(router.url, token("host", name), kind=Forger) as forger,
        session(router.url, router.admin_token) as admin,
    ):
        uri = f"io.timbr.kernel.{new_kernel_id(name)}.ping"
        await forger.register(lambda: 1, uri)
        result = await admin.call(uri, options=CallOptions(details=True))
        assert (result.callee, result.callee_authid) == (forger._session_id, name)


# --- what can be seen ------------------------------------------------------------------------


@in_loop
async def test_secrets_are_in_0600_files_alone_and_never_in_the_log(router: Router, token: Callable[..., str]) -> None:
    text = token("viewer")
    async with session(router.url, text):
        pass
    with pytest.raises(Refused):
        async with session(router.url, text + "x"):
            pass
    secrets = [each.partition(".")[2] for each in (router.admin_token, router.host_token, text)]
    found = []
    for folder in (router.node_dir, router.settings.runtime_dir):
        for path in (each for each in folder.rglob("*") if each.is_file()):
            content = path.read_bytes()
            if any(secret.encode() in content for secret in secrets):
                found.append(path.name)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert sorted(found) == ["local-tokens.json", "node.json"]
    assert not any(secret in repr(router) for secret in secrets)
    for pid in (router.pid, os.getpid()):
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as file:
            assert not any(secret in file.read() for secret in secrets)


@in_loop
async def test_the_answer_to_http_names_no_version(router: Router) -> None:
    port = int(router.url.split(":")[2].split("/")[0])
    for path in ("/", "/ws", "/missing"):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = (await asyncio.wait_for(reader.read(), 10.0)).decode().lower()
        writer.close()
        await writer.wait_closed()
        for word in ("twisted", "crossbar", "autobahn"):
            assert word not in answer, (path, answer)
