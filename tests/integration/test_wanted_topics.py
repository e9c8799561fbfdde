"""What the node component tells a bridge about subscribers, against the real router."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from autobahn.wamp.types import PublishOptions, SubscribeOptions
from bridging import BridgeProcess, SocketMachine, a_kernel, run
from plain_wamp import PlainSession, in_loop, kernel_info, session
from wait_kit import until

from timbr_wamp.client.connection import Connection
from timbr_wamp.names import kernel_uri, new_kernel_id
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.runtime import KernelFile
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration

INTEREST = "io.timbr.node.interest"
RETAINED = PublishOptions(acknowledge=True, retain=True)
PREFIX, WILDCARD = SubscribeOptions(match="prefix"), SubscribeOptions(match="wildcard")
WAIT_S = 10.0


class TellableBridge:
    """A bridge's wamp session: what it was told last."""

    def __init__(self, wamp: PlainSession, kernel_id: str) -> None:
        self.wamp, self.kernel_id = wamp, kernel_id
        self.number, self.topics = 0, list[str]()

    async def announce(self, *machines: str) -> None:
        info = kernel_info(self.kernel_id) | {"machines": [_brief(name) for name in machines]}
        self._take(await self.wamp.call("io.timbr.node.announce", info))

    async def told(self, *topics: str) -> None:
        """Wait until it was told that these topics have subscribers."""
        while sorted(self.topics) != sorted(topics):
            args, _ = await asyncio.wait_for(self.wamp.events.get(), WAIT_S)
            self._take(args[0])

    def _take(self, interest: dict[str, Any]) -> None:
        assert interest["kernel_id"] == self.kernel_id
        assert interest["number"] > self.number
        self.number, self.topics = interest["number"], interest["topics"]


def _brief(name: str) -> dict[str, str]:
    return {"name": name, "run": "r", "state": "idle"}


@pytest.fixture
def host_token(router: Router) -> Iterator[str]:
    store = TokenStore(router.node_dir)
    yield store.create("tellable", "host")
    store.revoke("tellable")


@asynccontextmanager
async def a_bridge(router: Router, token: str) -> AsyncIterator[TellableBridge]:
    async with session(router.url, token) as wamp:
        await wamp.listen(INTEREST)
        yield TellableBridge(wamp, new_kernel_id(token.partition(".")[0]))


@in_loop
async def test_a_bridge_is_told_at_each_way_in_which_subscribers_come_and_go(router: Router, host_token: str) -> None:
    async with a_bridge(router, host_token) as bridge, session(router.url, router.admin_token) as admin:
        kernel = f"io.timbr.kernel.{bridge.kernel_id}"
        early = await admin.subscribe(lambda: None, f"{kernel}.iopub")
        await bridge.announce("machine")
        await bridge.told("iopub")
        await early.unsubscribe()
        await bridge.told()

        # a retained event makes the subscription without a meta event, and keeps it without subscribers
        await bridge.wamp.publish(f"{kernel}.machine.status", {}, options=RETAINED)
        for how in ("goodbye", "cut", "unsubscribed"):
            async with session(router.url, router.admin_token) as viewer:
                one = await viewer.subscribe(lambda _: None, f"{kernel}.machine.status")
                await viewer.subscribe(lambda _: None, f"{kernel}.machine.records")
                await bridge.told("machine.status", "machine.records")
                if how == "cut":
                    viewer.cut()
                    await viewer.left
                    await bridge.told()
                elif how == "unsubscribed":
                    await one.unsubscribe()
                    await bridge.told("machine.records")
            await bridge.told()

        # of two subscribers of one topic, the last one counts
        async with session(router.url, router.admin_token) as viewer:
            await viewer.subscribe(lambda _: None, f"{kernel}.machine")
            await admin.subscribe(lambda _: None, f"{kernel}.machine")
            await bridge.told("machine")
        await bridge.announce("machine")
        assert bridge.topics == ["machine"]


@in_loop
async def test_patterns_count_and_a_machine_that_comes_later_has_its_subscribers(
    router: Router, host_token: str
) -> None:
    async with a_bridge(router, host_token) as bridge, session(router.url, router.admin_token) as admin:
        kernel = f"io.timbr.kernel.{bridge.kernel_id}"
        await bridge.announce()
        prefix = await admin.subscribe(lambda *_: None, f"{kernel}.machine.", options=PREFIX)
        wildcard = await admin.subscribe(lambda *_: None, "io.timbr.kernel..filter", options=WILDCARD)
        await admin.subscribe(lambda *_: None, f"{kernel}.iopub")
        await bridge.told("iopub")
        await bridge.announce("machine", "filter")
        below = [f"machine.{name}" for name in ("records", "status", "event", "error")]
        assert sorted(bridge.topics) == sorted(["iopub", "filter", *below])
        await prefix.unsubscribe()
        await bridge.told("iopub", "filter")
        await wildcard.unsubscribe()
        await bridge.told("iopub")


@in_loop
async def test_nobody_else_hears_what_a_bridge_is_told(router: Router, host_token: str) -> None:
    async with (
        a_bridge(router, host_token) as bridge,
        session(router.url, router.host_token) as other_host,
        session(router.url, router.admin_token) as admin,
    ):
        await other_host.listen(INTEREST)
        await admin.listen("io.timbr.node.", match="prefix")
        await bridge.announce()
        topic = f"io.timbr.kernel.{bridge.kernel_id}.iopub"
        await admin.subscribe(lambda *_: None, topic)
        await bridge.told("iopub")
        # what comes after it on the same way has come, so it would have come too
        await bridge.wamp.call("io.timbr.node.announce", kernel_info(bridge.kernel_id))
        await other_host.call("io.timbr.node.announce", kernel_info(new_kernel_id("lab")))
        await admin.call("io.timbr.kernel.list")
        assert other_host.events.empty()
        assert admin.events.empty()


@in_loop
async def test_the_newest_bridge_of_a_kernel_is_the_one_that_is_told(router: Router, host_token: str) -> None:
    async with a_bridge(router, host_token) as older, session(router.url, router.admin_token) as admin:
        await older.announce()
        async with a_bridge(router, host_token) as newer:
            newer.kernel_id = older.kernel_id
            await newer.announce()
            await admin.subscribe(lambda *_: None, f"io.timbr.kernel.{older.kernel_id}.iopub")
            await newer.told("iopub")
            assert older.wamp.events.empty()


# --- what is restarted -----------------------------------------------------------------------


def test_bridges_know_what_is_wanted_after_the_router_or_they_themselves_were_killed(
    own_settings: Settings, free_port: int, tmp_path: Path
) -> None:
    first = Router.start(own_settings, port=free_port)

    async def work(file: KernelFile, bridge: BridgeProcess, viewer: Connection, machine: SocketMachine) -> None:
        topic = kernel_uri(file.kernel_id, "machine", "records")
        await viewer.open(20.0)
        await viewer.subscribe(topic, lambda *_, **__: None)
        await until(lambda: len(machine.listeners) == 1, "the bridge reads", 30.0)
        os.killpg(first.pid, signal.SIGKILL)
        await until(lambda: not machine.listeners)  # nobody can be subscribed without a router
        with await asyncio.to_thread(Router.start, own_settings, port=free_port) as second:
            await until(lambda: len(machine.listeners) == 1, "the bridge reads", 30.0)
            bridge.kill()
            await until(lambda: not machine.listeners)
            with BridgeProcess(own_settings, second, "--kernel-id", file.kernel_id):
                await until(lambda: len(machine.listeners) == 1, "the bridge reads", 30.0)
                await viewer.close()
                assert await until(lambda: not machine.listeners)

    async def viewing(file: KernelFile, bridge: BridgeProcess, machine: SocketMachine) -> None:
        viewer = Connection(first.unix_url, own_settings.realm, first.admin_token)
        try:
            await work(file, bridge, viewer, machine)
        finally:
            await viewer.close()

    try:
        with (
            a_kernel(own_settings, tmp_path) as file,
            SocketMachine(own_settings, file) as machine,
            BridgeProcess(own_settings, first, "--kernel-id", file.kernel_id) as bridge,
        ):
            run(viewing(file, bridge, machine), 100.0)
    finally:
        first.stop()
