"""Every call is answered, and no value costs anybody else anything: odd values in every position of every procedure."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallOptions, PublishOptions, RegisterOptions
from bridging import BridgeProcess, HostChild, Remote, a_kernel, connected, run
from odd_calls import (
    OddCall,
    json_serializer,
    msgpack_serializer,
    odd_calls,
    odd_calls_of_host,
    odd_calls_of_node,
    odd_calls_of_router,
    sampled,
    unanswered,
)
from plain_wamp import PlainSession, in_loop, kernel_info, session

from timbr_wamp.client.connection import Connection
from timbr_wamp.contract import NODE
from timbr_wamp.errors import NoSuchProcedure
from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.runtime import KernelFile
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration

STARTUP = "from timbr_wamp.machine import Machine\nm = Machine(bufsize=64)\n"
SERIALIZERS = {"json": json_serializer, "msgpack": msgpack_serializer}
ROLES = ("viewer", "operator", "admin", "host")
#: Calls of each role in each serializer: of a kernel and its machine, of a host, of the node component, of the router
#: itself. There are some thousands.
CALLS = {"kernel": 150, "host": 40, "node": 60, "router": 60}
SEED = 7
#: More than there are; and how long they may take, seconds.
ALL_CALLS, ALL_LIMIT_S = dict.fromkeys(CALLS, 100_000), 1800.0

_numbers = itertools.count()


@pytest.fixture
def bridged(settings: Settings, router: Router, tmp_path: Path) -> Iterator[tuple[KernelFile, BridgeProcess]]:
    with (
        a_kernel(settings, tmp_path, STARTUP) as file,
        BridgeProcess(settings, router, "--kernel-id", file.kernel_id) as bridge,
    ):
        yield file, bridge


@pytest.fixture
def odd_host(settings: Settings, router: Router) -> Iterator[str]:
    """The name of a host, which no call makes start a kernel."""
    name, store = f"odd_computer_{next(_numbers)}", TokenStore(router.node_dir)
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    try:
        token = store.create(name, "host")
        with HostChild(replace(settings, runtime_dir=folder), router, token) as child:
            yield name
            assert child.alive, child.log
        assert not list(folder.glob("kernel-*"))
    finally:
        store.revoke(name)
        shutil.rmtree(folder)


def calls_of(role: str, authid: str, serializer: str, counts: dict[str, int], seed: int) -> list[OddCall]:
    """Return the calls of one caller, in random order."""
    owner = authid if role == "host" else "lab"
    kinds = {
        "kernel": odd_calls(serializer),
        "host": odd_calls_of_host(serializer),
        "node": odd_calls_of_node(serializer, kernel_info(new_kernel_id(owner))),
        "router": odd_calls_of_router(serializer),
    }
    chosen = [call for kind, calls in kinds.items() for call in sampled(calls, counts[kind], seed)]
    return sampled(chosen, len(chosen), seed)


async def odd_calls_of_all(
    router: Router, settings: Settings, kernel_id: str, host: str, counts: dict[str, int], seed: int
) -> list[str]:
    """Make odd calls by every role in both serializers, at the same time; return what was wrong."""
    store = TokenStore(router.node_dir)
    names = {role: f"odd_{role}_{next(_numbers)}" for role in ROLES}
    tokens = {role: store.create(name, role) for role, name in names.items()}
    prefixes = {"K": f"io.timbr.kernel.{kernel_id}", "H": f"io.timbr.host.{host}"}
    finished = asyncio.Event()

    async def one(role: str, serializer: str) -> list[str]:
        calls = calls_of(role, names[role], serializer, counts, seed)
        async with session(router.url, tokens[role], serializer=SERIALIZERS[serializer]()) as caller:
            wrong = await unanswered(caller, prefixes, calls)
            if caller.left.done():
                wrong.append("its own session ended")
        return [f"{role}, {serializer}: {text}" for text in wrong]

    try:
        async with connected(router, settings) as connection:
            remote = Remote(connection, kernel_id)
            await remote.machine_there()
            await answering(connection, f"{prefixes['H']}.list")
            wamp_session = (await remote.there())["wamp_session"]
            beside = asyncio.create_task(well_behaved(remote, finished))
            found = await asyncio.gather(*(one(role, kind) for role in ROLES for kind in SERIALIZERS))
            finished.set()
            assert await beside > 0
            assert (await remote.call("info"))["wamp_session"] == wamp_session, "the bridge left the router"
            assert await connection.call(f"{prefixes['H']}.list") == []
            listed = await connection.call("io.timbr.kernel.list")  # for everybody, whatever one host announced
            assert kernel_id in [kernel.kernel_id for kernel in NODE["list"].result(listed)]
    finally:
        for name in names.values():
            store.revoke(name)
    return [text for wrong in found for text in wrong]


async def answering(connection: Connection, uri: str) -> None:
    """Wait until somebody answers a procedure."""
    async with asyncio.timeout(20.0):
        while True:
            try:
                await connection.call(uri)
            except NoSuchProcedure:
                await asyncio.sleep(0.05)
            else:
                return


async def well_behaved(remote: Remote, finished: asyncio.Event) -> int:
    """Call what others call, until ``finished``; return how often. It raises what any of its calls raises."""
    count = 0
    while not finished.is_set():
        status: Any = await remote.call("machine.status")
        assert status["name"] == "machine"
        await remote.call("machine.put", {"n": count}) if status["queue_size"] < 32 else None
        count += 1
        await asyncio.sleep(0.01)
    return count


def test_every_call_is_answered_and_nobody_else_notices(
    settings: Settings, router: Router, bridged: tuple[KernelFile, BridgeProcess], odd_host: str
) -> None:
    file, bridge = bridged
    wrong = run(odd_calls_of_all(router, settings, file.kernel_id, odd_host, CALLS, SEED))
    assert not wrong, "\n".join(wrong)
    assert bridge.alive


@pytest.mark.soak
def test_every_odd_call_of_every_role_is_answered(
    settings: Settings, router: Router, bridged: tuple[KernelFile, BridgeProcess], odd_host: str
) -> None:
    file, bridge = bridged
    seed = int(os.environ.get("SEED", "0"))
    wrong = run(odd_calls_of_all(router, settings, file.kernel_id, odd_host, ALL_CALLS, seed), ALL_LIMIT_S)
    assert not wrong, f"SEED={seed}\n" + "\n".join(wrong)
    assert bridge.alive


# --- what a receiver's serializer does not have ------------------------------------------------


class Callee(PlainSession):
    """A host that answers with values that some callers cannot get."""

    async def serve(self, prefix: str) -> None:
        async def odd(kind: str, details: Any) -> Any:
            value = ODD_RESULTS[kind]
            if details.progress is not None:
                details.progress(1)
                details.progress(value)
            if kind == "in an error":
                raise ApplicationError(f"{prefix}.error", value)
            return value

        await self.register(odd, f"{prefix}.machine.call", options=RegisterOptions(details_arg="details"))


ODD_RESULTS: dict[str, Any] = {
    "NaN": float("nan"),
    "keys": {b"bytes": 1},
    "in an error": [float("nan")],
}


@in_loop
async def test_an_answer_that_the_caller_cannot_get_is_an_error(router: Router) -> None:
    kernel_id = new_kernel_id("lab")
    prefix = f"io.timbr.kernel.{kernel_id}"
    async with (
        session(router.url, router.host_token, kind=Callee, serializer=msgpack_serializer()) as callee,
        session(router.url, router.admin_token) as caller,
    ):
        assert isinstance(callee, Callee)
        await callee.serve(prefix)
        for kind in ODD_RESULTS:
            parts: list[Any] = []
            for options in (None, CallOptions(on_progress=parts.append)):
                with pytest.raises(ApplicationError) as caught:
                    await asyncio.wait_for(caller.call(f"{prefix}.machine.call", kind, options=options), 10.0)
                assert caught.value.error in ("io.timbr.error.remote", "io.timbr.error.invalid_argument"), kind
            assert parts == [1]
        assert not caller.left.done()
        assert not callee.left.done()


@in_loop
async def test_an_event_that_one_subscriber_cannot_get_reaches_the_others(router: Router) -> None:
    kernel_id = new_kernel_id("lab")
    topic = f"io.timbr.kernel.{kernel_id}.machine.event"
    async with (
        session(router.url, router.host_token, serializer=msgpack_serializer()) as host,
        session(router.url, router.admin_token) as json_reader,
        session(router.url, router.admin_token, serializer=msgpack_serializer()) as msgpack_reader,
    ):
        for reader in (json_reader, msgpack_reader):
            await reader.listen(topic)
        for value in (float("nan"), {b"key": 1}, "understood"):
            await host.publish(topic, value, options=PublishOptions(acknowledge=True))
        assert await json_reader.event() == "understood"
        assert str(await msgpack_reader.event()) == "nan"
        assert await msgpack_reader.event() == {b"key": 1}
        assert await msgpack_reader.event() == "understood"
