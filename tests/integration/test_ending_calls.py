"""Calls end with their caller, down to the machine; and what is too large is refused, for plain WAMP clients."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.exception import ApplicationError
from bridging import BridgeProcess, Remote, a_kernel, connected, run
from odd_calls import answer_of, json_serializer, msgpack_serializer
from plain_wamp import session
from wait_kit import until

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES
from timbr_wamp.errors import ControlBusy
from timbr_wamp.machine.serving.control import WAITING
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.runtime import KernelFile
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration

STARTUP = """
import asyncio
from timbr_wamp.machine import Machine
m = Machine(bufsize=4)
ended = []
async def slow(x):
    if x != "slow":
        return x
    m.event_log.add("entered")
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        m.event_log.add("ended")
        raise
m[0] = slow
m.start()
m.pause()
"""

_numbers = itertools.count()


@pytest.fixture
def kernel(settings: Settings, router: Router, tmp_path: Path) -> Iterator[KernelFile]:
    with (
        a_kernel(settings, tmp_path, STARTUP) as file,
        BridgeProcess(settings, router, "--kernel-id", file.kernel_id),
    ):
        yield file


@pytest.fixture
def operator(router: Router) -> Iterator[str]:
    store, name = TokenStore(router.node_dir), f"ending_{next(_numbers)}"
    yield store.create(name, "operator")
    store.revoke(name)


async def event(remote: Remote, kind: str) -> None:
    """Wait until the machine has an event of a kind."""

    async def there() -> bool:
        return kind in [each["kind"] for each in await remote.call("machine.events")]

    await until(there, f"the machine has an event {kind!r}")


def test_calls_end_with_their_caller_and_keep_nobody_out(
    settings: Settings, router: Router, kernel: KernelFile, operator: str
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, kernel.kernel_id)
            await remote.machine_there()
            prefix = remote.uri("machine")
            async with session(router.url, operator, serializer=msgpack_serializer()) as caller:
                # one that is cancelled
                call = caller.call(f"{prefix}.call", "slow")
                await event(remote, "entered")
                call.cancel()
                await event(remote, "ended")

                # many that wait: the queue is full, the machine paused
                await caller.call(f"{prefix}.put_many", [1, 2, 3, 4])
                for _ in range(WAITING // 4):
                    caller.call(f"{prefix}.put_many", ["never"], timeout_s=60.0)
                    caller.call(f"{prefix}.progress", 30.0, 86_400.0)
                assert await answer_of(caller, f"{prefix}.progress", [30.0], {}) == ControlBusy.uri
                # … keep nobody out
                assert (await remote.call("machine.slot_set", 1, {"kind": "source", "text": "str"}))["number"] > 0
                assert (await remote.call("machine.rollback", 1))["number"] > 0
                assert (await remote.call("machine.call", 1))["text"]
                caller.cut()  # as a killed process does
            async with session(router.url, operator, serializer=json_serializer()) as caller:

                async def has_place() -> bool:
                    return await answer_of(caller, f"{prefix}.progress", [30.0, 0.1], {}) != ControlBusy.uri

                await until(has_place, "the places come back")
            await remote.call("machine.resume")

            async def finished() -> Any:
                status = await remote.call("machine.status")
                return status if status["processed"] >= 4 else None

            assert (await until(finished, "four are processed"))["put"] == 4  # none of those that had gone was put

    run(work())


@pytest.mark.parametrize("serializer", [json_serializer, msgpack_serializer], ids=["json", "msgpack"])
def test_what_is_too_large_is_refused_and_its_session_stays(
    settings: Settings, router: Router, kernel: KernelFile, operator: str, serializer: Any
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, kernel.kernel_id)
            await remote.machine_there()
            wamp_session = (await remote.there())["wamp_session"]
            async with session(router.url, operator, serializer=serializer()) as caller:
                for size in (PAYLOAD_LIMIT_BYTES, 2 * PAYLOAD_LIMIT_BYTES, 7 * PAYLOAD_LIMIT_BYTES // 2):
                    with pytest.raises(ApplicationError) as refused:
                        await caller.call(remote.uri("machine", "put"), "x" * size)
                    assert refused.value.error == "io.timbr.error.payload_too_large"
                    assert refused.value.args[1] == PAYLOAD_LIMIT_BYTES
                assert len(await caller.call(remote.uri("machine", "put"), "x" * (PAYLOAD_LIMIT_BYTES - 1000))) == 24
                # over the router's own limit, its connection is closed, with a reason if the router gives one
                call = caller.call(remote.uri("machine", "put"), "x" * (5 * PAYLOAD_LIMIT_BYTES))
                await asyncio.wait_for(caller.left, 10.0)
                call.cancel()
            assert (await remote.call("info"))["wamp_session"] == wamp_session

    run(work())
