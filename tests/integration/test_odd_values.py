"""Every call is answered, and no value costs anybody else anything: odd values in every position of every procedure."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallOptions, PublishOptions, RegisterOptions
from bridging import BridgeProcess, Remote, a_kernel, connected, run
from odd_calls import json_serializer, msgpack_serializer, odd_calls, sampled, unanswered
from plain_wamp import PlainSession, in_loop, session

from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.runtime import KernelFile
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration

STARTUP = "from timbr_wamp.machine import Machine\nm = Machine(bufsize=64)\n"
SERIALIZERS = {"json": json_serializer, "msgpack": msgpack_serializer}
ROLES = ("viewer", "operator", "admin")
#: Calls of each role in each serializer; there are some thousands.
CALLS = 150
SEED = 7
#: More than there are; and how long they may take, seconds.
ALL_CALLS, ALL_LIMIT_S = 100_000, 1800.0

_numbers = itertools.count()


@pytest.fixture
def bridged(settings: Settings, router: Router, tmp_path: Path) -> Iterator[tuple[KernelFile, BridgeProcess]]:
    with (
        a_kernel(settings, tmp_path, STARTUP) as file,
        BridgeProcess(settings, router, "--kernel-id", file.kernel_id) as bridge,
    ):
        yield file, bridge


async def odd_calls_of_all(router: Router, settings: Settings, kernel_id: str, count: int, seed: int) -> list[str]:
    """Make odd calls by every role in both serializers, at the same time; return what was wrong."""
    store = TokenStore(router.node_dir)
    names = {role: f"odd_{role}_{next(_numbers)}" for role in ROLES}
    tokens = {role: store.create(name, role) for role, name in names.items()}
    finished = asyncio.Event()

    async def one(role: str, serializer: str) -> list[str]:
        calls = sampled(odd_calls(serializer), count, seed)
        async with session(router.url, tokens[role], serializer=SERIALIZERS[serializer]()) as caller:
            wrong = await unanswered(caller, f"io.timbr.kernel.{kernel_id}", calls)
            if caller.left.done():
                wrong.append("its own session ended")
        return [f"{role}, {serializer}: {text}" for text in wrong]

    try:
        async with connected(router, settings) as connection:
            remote = Remote(connection, kernel_id)
            await remote.machine_there()
            wamp_session = (await remote.there())["wamp_session"]
            beside = asyncio.create_task(well_behaved(remote, finished))
            found = await asyncio.gather(*(one(role, kind) for role in ROLES for kind in SERIALIZERS))
            finished.set()
            assert await beside > 0
            assert (await remote.call("info"))["wamp_session"] == wamp_session, "the bridge left the router"
    finally:
        for name in names.values():
            store.revoke(name)
    return [text for wrong in found for text in wrong]


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
    settings: Settings, router: Router, bridged: tuple[KernelFile, BridgeProcess]
) -> None:
    file, bridge = bridged
    wrong = run(odd_calls_of_all(router, settings, file.kernel_id, CALLS, SEED))
    assert not wrong, "\n".join(wrong)
    assert bridge.alive


@pytest.mark.soak
def test_every_odd_call_of_every_role_is_answered(
    settings: Settings, router: Router, bridged: tuple[KernelFile, BridgeProcess]
) -> None:
    file, bridge = bridged
    seed = int(os.environ.get("SEED", "0"))
    wrong = run(odd_calls_of_all(router, settings, file.kernel_id, ALL_CALLS, seed), ALL_LIMIT_S)
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
