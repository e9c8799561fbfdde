"""A bridge between a real kernel and a real router: procedures, topics while wanted, ends and returns."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bridging import (
    MACHINE_STARTUP,
    BridgeProcess,
    Remote,
    SocketMachine,
    a_kernel,
    connected,
    run,
)
from wait_kit import BUSY_CELL, until

from timbr_wamp import runtime
from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES
from timbr_wamp.errors import (
    InvalidArgument,
    KernelDead,
    KernelNotManaged,
    NoMachine,
    NoSuchProcedure,
    NotAuthorized,
    PayloadTooLarge,
)
from timbr_wamp.router import Router, TokenStore
from timbr_wamp.runtime import BridgeFile, KernelFile
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def bridged_kernel(
    settings: Settings, router: Router, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[KernelFile]:
    """A kernel without a machine, bridged, for all tests that leave it so."""
    with (
        a_kernel(settings, tmp_path_factory.mktemp("plain")) as file,
        BridgeProcess(settings, router, "--kernel-id", file.kernel_id),
    ):
        yield file


@pytest.fixture
def plain_kernel(settings: Settings, router: Router, bridged_kernel: KernelFile) -> KernelFile:
    """That kernel, idle, and without the machines of the test before."""

    async def ready() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, bridged_kernel.kernel_id)

            async def alone() -> bool:
                info = await remote.there()
                return info["state"] == "idle" and not info["machines"]

            await until(alone, "no machine is there")

    run(ready())
    return bridged_kernel


@pytest.fixture
def machine_kernel(settings: Settings, router: Router, tmp_path: Path) -> Iterator[KernelFile]:
    """A kernel with a machine ``m``, bridged."""
    with (
        a_kernel(settings, tmp_path, MACHINE_STARTUP) as file,
        BridgeProcess(settings, router, "--kernel-id", file.kernel_id),
    ):
        yield file


# --- the kernel ------------------------------------------------------------------------------


def test_a_kernel_is_listed_with_what_it_is(settings: Settings, router: Router, plain_kernel: KernelFile) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            info = await remote.there()
            assert (info["state"], info["host"], info["pid"], info["managed"]) == (
                "idle",
                "lab",
                plain_kernel.pid,
                True,
            )
            assert info["language"] == "python"
            await remote.listed()
            assert abs(await remote.call("ping") - time.time()) < 5.0

    run(work())


def test_interactive_output_arrives_in_order_before_the_reply(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            seen: list[Any] = []
            code = "for i in range(50): display(i)\n1/0"
            reply = await remote.call("execute_interactive", code, on_progress=seen.append)
            assert (reply["status"], reply["ename"]) == ("error", "ZeroDivisionError")
            shown = [m["content"]["data"]["text/plain"] for m in seen if m["msg_type"] == "display_data"]
            assert shown == [str(i) for i in range(50)]
            assert [m["msg_type"] for m in seen][-2:] == ["error", "status"]
            assert [m["seq"] for m in seen] == sorted(m["seq"] for m in seen)

    run(work())


def test_output_and_results_over_the_limit_never_drop_the_connection(
    settings: Settings, router: Router, machine_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, machine_kernel.kernel_id)
            session = (await remote.there())["wamp_session"]
            seen: list[Any] = []
            size = 3 * PAYLOAD_LIMIT_BYTES
            code = f"print('x' * {size})\n{{'text/plain': 'y' * {size}}}"
            reply = await remote.call("execute_interactive", code, on_progress=seen.append)
            assert reply["status"] == "ok"
            assert sum(m["content"]["text"].count("x") for m in seen if m["msg_type"] == "stream") == size
            (result,) = [m for m in seen if m["msg_type"] == "execute_result"]
            assert "exceeds the limit" in result["content"]["data"]["text/plain"]
            await remote.machine_there()
            await remote.call("execute", f"m[0] = lambda x: 'z' * {size}")
            with pytest.raises(PayloadTooLarge):
                await remote.call("machine.call", 1)
            assert (await remote.call("info"))["wamp_session"] == session

    run(work())


def test_completion_answers_and_interrupt_works_while_a_cell_runs(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            states = await remote.subscribe("state", get_retained=True)
            cell = asyncio.create_task(remote.call("execute", BUSY_CELL))
            await until(lambda: states and states[-1]["state"] == "busy")
            assert "print" in (await remote.call("complete", "pri"))["matches"]
            assert (await remote.call("is_complete", "if x:"))["status"] == "incomplete"
            await remote.call("interrupt")
            assert (await cell)["ename"] == "KeyboardInterrupt"
            await until(lambda: states[-1]["state"] == "idle")

    run(work())


def test_arguments_are_checked_at_the_call(settings: Settings, router: Router, machine_kernel: KernelFile) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, machine_kernel.kernel_id)
            await remote.there()
            with pytest.raises(InvalidArgument, match="code"):
                await remote.call("execute", 5)
            with pytest.raises(InvalidArgument, match="takes"):
                await remote.call("execute", "1", nonsense=True)
            await remote.machine_there()
            with pytest.raises(InvalidArgument, match="after_seq"):
                await remote.call("machine.records", "run", "one")

    run(work())


def test_iopub_is_published_to_who_subscribes(settings: Settings, router: Router, plain_kernel: KernelFile) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            messages = await remote.subscribe("iopub")

            async def heard() -> bool:  # the bridge learns of a subscription by and by
                await remote.call("execute", "print('hello')")
                return any(message["content"].get("text") == "hello\n" for message in messages)

            await until(heard, "output is published")
            # the parts of what is too large for one event have numbers of their own
            await remote.call("execute", f"print('x' * {2 * PAYLOAD_LIMIT_BYTES}); print('end')")
            await until(lambda: any("end" in str(message["content"].get("text"))[-5:] for message in messages))
            texts = [message["content"]["text"] for message in messages if message["msg_type"] == "stream"]
            assert sum(text.count("x") for text in texts) == 2 * PAYLOAD_LIMIT_BYTES
            numbers = [message["seq"] for message in messages]
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    run(work())


class BrokenMachine(SocketMachine):
    """A machine that breaks the local wire, in a way that nobody foresaw."""

    def _answer(self, name: str, args: list[Any]) -> Any:
        return {} if name == "__changes__" else super()._answer(name, args)


def test_an_unexpected_error_ends_the_bridge_and_is_seen(settings: Settings, router: Router, tmp_path: Path) -> None:
    with a_kernel(settings, tmp_path) as file, BridgeProcess(settings, router, "--kernel-id", file.kernel_id) as bridge:
        with BrokenMachine(settings, file):
            said = run(bridge.ended(30.0))
        assert bridge.process.exit_status == 1
        assert "KeyError: 'event_number'" in said
        assert file.alive()


def test_a_viewer_sees_and_may_not_execute(settings: Settings, router: Router, plain_kernel: KernelFile) -> None:
    token = TokenStore(router.node_dir).create(f"viewer_{plain_kernel.kernel_id[-6:]}", "viewer")

    async def work() -> None:
        async with connected(router, settings) as admin:
            await Remote(admin, plain_kernel.kernel_id).there()
        async with connected(router, settings, token) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            assert (await remote.call("info"))["kernel_id"] == plain_kernel.kernel_id
            with pytest.raises(NotAuthorized):
                await remote.call("execute", "1")

    run(work())


def test_a_kernel_that_dies_comes_back_under_its_id(
    settings: Settings, router: Router, machine_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, machine_kernel.kernel_id)
            await remote.there()
            await remote.machine_there()
            run_before = (await remote.call("machine.status"))["run"]
            statuses = await remote.subscribe("machine.status", get_retained=True)
            states = await remote.subscribe("state")
            with pytest.raises(KernelDead):
                await remote.call("execute", "import os; os._exit(1)")
            # whoever asks its machine is told, and not to make one there
            with pytest.raises(KernelDead, match="its process ended; it is restarting"):
                await called_for_ever(remote, "machine.status")
            await until_restarted(remote, 1)
            assert (await remote.call("info"))["reason"] == "its process ended; it was restarted"
            assert ("restarting", "its process ended") in [(state["state"], state["reason"]) for state in states]
            assert "its process ended; it is restarting" in [status["reason"] for status in statuses]
            await remote.machine_there()
            assert (await remote.call("machine.status"))["run"] == run_before, "its journal goes on"
            assert (await remote.call("restart"))["restarts"] == 2

    run(work())


async def called_for_ever(remote: Remote, name: str) -> None:
    while True:
        await remote.call(name)


async def until_restarted(remote: Remote, restarts: int) -> None:
    async def restarted() -> bool:
        return bool((await remote.there())["restarts"] == restarts)

    await until(restarted, f"it was restarted {restarts} times")


# --- its machines ----------------------------------------------------------------------------


def test_a_machine_is_called_over_the_router_and_knows_its_caller(
    settings: Settings, router: Router, machine_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, machine_kernel.kernel_id)
            await remote.there()
            await remote.machine_there()
            function = {"kind": "source", "text": "def double(x):\n    return 2 * x"}
            revision = await remote.call("machine.slot_set", 0, function)
            assert revision["author"] == connection.authid
            assert json.loads((await remote.call("machine.call", 21))["text"])[:2] == [21, 42]
            records = await remote.subscribe("machine.records")
            statuses = await remote.subscribe("machine.status", get_retained=True)
            await until(lambda: statuses)
            await remote.call("machine.start")

            async def heard() -> bool:  # the bridge learns of a subscription by and by
                await remote.call("machine.put", 0)
                return bool(records)

            await until(heard, "records are published")
            before = (await remote.call("machine.status"))["put"]
            oids = [await remote.call("machine.put", n) for n in range(20)]
            await until(lambda: records[-1]["last_seq"] == before + 20, "all records came")
            rows = rows_of(records)[-20:]
            assert [row[1] for row in rows] == oids
            assert [row[2] for row in rows] == [[n, 2 * n] for n in range(20)]
            assert {tuple(batch["layout"]) for batch in records} == {(1, 8)}
            await until(lambda: statuses[-1]["last_seq"] == before + 20, "the status says so")

    run(work())


def test_a_kernel_without_a_machine_says_so(settings: Settings, router: Router, plain_kernel: KernelFile) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            with pytest.raises(NoMachine, match=r"no machine .*timbr_wamp\.Machine"):
                await remote.call("machine.status")
            with pytest.raises(NoSuchProcedure):
                await remote.call("other.status")

    run(work())


def test_machines_are_registered_and_removed_under_their_names(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            states = await remote.subscribe("state", get_retained=True)
            with SocketMachine(settings, plain_kernel, "pump"), SocketMachine(settings, plain_kernel, "execute"):
                await until(lambda: states and [m["name"] for m in states[-1]["machines"]] == ["pump"])
                assert (await remote.call("pump.status"))["name"] == "pump"
                with pytest.raises(NoSuchProcedure):
                    await remote.call("execute.status")  # a name of the kernel's own is refused
            await until(lambda: not states[-1]["machines"])
            with pytest.raises((NoSuchProcedure, NoMachine)):
                await remote.call("pump.status")

    run(work())


def test_records_are_read_only_while_somebody_is_subscribed(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            with SocketMachine(settings, plain_kernel) as machine:
                await remote.machine_there()
                assert not machine.listeners
                subscription = await connection.subscribe(remote.uri("machine", "records"), lambda *a, details: None)
                await until(lambda: len(machine.listeners) == 1)
                await subscription.unsubscribe()
                await until(lambda: not machine.listeners)
                # a subscriber that vanishes without a word counts as gone too
                stranger = subprocess.Popen(
                    [sys.executable, "-c", STRANGER, router.unix_url, router.admin_token, remote.uri("machine")]
                )
                await until(lambda: len(machine.listeners) == 1)
                stranger.kill()
                stranger.wait(5)
                await until(lambda: not machine.listeners)

    run(work())


def rows_of(batches: list[Any]) -> list[Any]:
    """Return the rows of all batches."""
    return [row for batch in batches for row in json.loads(batch["block"])]


def test_viewers_of_single_records_come_and_go_without_touching_a_complete_reader(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            with SocketMachine(settings, plain_kernel) as machine:
                await remote.machine_there()
                batches = await remote.subscribe("machine.records")
                await until(lambda: len(machine.listeners) == 1)
                complete = machine.listeners[0]
                for visit in range(3):
                    viewer = await connection.subscribe(remote.uri("machine"), lambda *a, details, **k: None)
                    await until(lambda: len(machine.listeners) == 2)
                    machine.publish(100)
                    await viewer.unsubscribe()
                    await until(lambda: len(machine.listeners) == 1)
                    assert (machine.listeners, machine.came) == ([complete], visit + 2)
                await until(lambda: batches and batches[-1]["last_seq"] == 300)
                assert [row[0] for row in rows_of(batches)] == list(range(1, 301))
                assert machine.refills == []

    run(work())


STRANGER = """
import asyncio, sys
from timbr_wamp.client.connection import Connection
async def main():
    connection = Connection(sys.argv[1], "timbr", sys.argv[2])
    await connection.open()
    await connection.subscribe(sys.argv[3], lambda *args, **kwargs: None)
    await asyncio.Event().wait()
asyncio.run(main())
"""


def test_records_that_were_lost_in_transit_are_filled_in(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            with SocketMachine(settings, plain_kernel) as machine:
                await remote.machine_there()
                batches = await remote.subscribe("machine.records")
                await until(lambda: len(machine.listeners) == 1)
                # every third is lost, and the last ones, which only the status tells
                machine.publish(3000, lost=lambda seq: seq % 3 == 0 or seq > 2990)
                await until(lambda: batches and batches[-1]["last_seq"] == 3000)
                rows = rows_of(batches)
                assert rows == [machine.row(seq) for seq in range(rows[0][0], 3001)]
                assert rows[0][0] == 1
                assert machine.refills

    run(work())


def test_what_the_machine_samples_is_published_as_single_events_marked_as_a_sample(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, plain_kernel.kernel_id)
            await remote.there()
            events: list[tuple[str, list[int], int]] = []

            def on_event(oid: str, values: list[int], *, details: object, sampled: int = 1) -> None:
                events.append((oid, values, sampled))

            with SocketMachine(settings, plain_kernel) as machine:
                await remote.machine_there()
                await connection.subscribe(remote.uri("machine"), on_event)
                await until(lambda: len(machine.listeners) == 1)
                machine.send(1, 1)
                await until(lambda: events)
                assert events == [(f"{1:024x}", [1], 1)]
                machine.send(2, 3, sampled=7)
                await until(lambda: len(events) == 3)
                assert events[1:] == [(f"{2:024x}", [2], 7), (f"{3:024x}", [3], 7)]

    run(work())


# --- ends and returns ------------------------------------------------------------------------


def test_a_killed_bridge_leaves_the_kernel_and_the_next_has_the_same_id(
    settings: Settings, router: Router, tmp_path: Path
) -> None:
    async def work(file: KernelFile) -> None:
        def left_subshell() -> str | None:
            bridge = runtime.read_file(runtime.bridge_file(settings.runtime_dir, file.kernel_id), BridgeFile)
            return bridge.subshell_id if bridge is not None else None

        async with connected(router, settings) as connection:
            remote = Remote(connection, file.kernel_id)
            with BridgeProcess(settings, router, "--kernel-id", file.kernel_id) as first:
                await remote.there()
                await remote.call("execute", "kept = 7")
                await until(lambda: left_subshell() is not None)
                first.kill()
                await first.ended()
            before = left_subshell()
            assert before is not None
            with BridgeProcess(settings, router, "--kernel-id", file.kernel_id):
                info = await remote.there()
                assert (info["pid"], info["restarts"]) == (file.pid, 0)
                seen: list[Any] = []
                await remote.call("execute_interactive", "print(kept)", on_progress=seen.append)
                assert "7\n" in [m["content"].get("text") for m in seen]
                # the dead bridge's subshell is gone from the kernel: there is one, the new bridge's
                code = "from ipykernel.kernelapp import IPKernelApp as A\n"
                code += "print(len(A.instance().kernel.shell_channel_thread.manager.list_subshell()))"
                await until(lambda: left_subshell() not in (None, before))
                seen.clear()
                await remote.call("execute_interactive", code, on_progress=seen.append)
                assert "1\n" in [m["content"].get("text") for m in seen]

    with a_kernel(settings, tmp_path) as file:
        run(work(file))


def test_a_second_bridge_is_refused_in_one_sentence(
    settings: Settings, router: Router, plain_kernel: KernelFile
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            await Remote(connection, plain_kernel.kernel_id).there()
            with BridgeProcess(settings, router, "--kernel-id", plain_kernel.kernel_id) as second:
                said = await second.ended()
                assert f"kernel {plain_kernel.kernel_id} already has a bridge" in said
                assert "Traceback" not in said

    run(work())


def test_a_kernel_of_somebody_else_keeps_its_id_and_name_over_bridges_and_its_end_is_told(
    settings: Settings, router: Router, tmp_path: Path
) -> None:
    connection_file = tmp_path / "theirs.json"
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", str(connection_file)]
    kernel = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def bridged(*options: str, ends: bool = False) -> str:
        with BridgeProcess(settings, router, str(connection_file), *options) as bridge:
            async with connected(router, settings) as connection:

                async def theirs() -> list[Any]:
                    kernels = await connection.call("io.timbr.kernel.list")
                    return [k for k in kernels if k["name"] == "my_tank" and k["state"] == "idle"]

                (listed,) = await until(theirs, "their kernel is in the list")
                remote = Remote(connection, listed["kernel_id"])
                assert (await remote.call("execute", "1"))["status"] == "ok"
                with pytest.raises(KernelNotManaged):
                    await remote.call("restart")
            assert f"kernel {remote.kernel_id} (my_tank) is on {router.unix_url}" in bridge.log
            assert router.page_url in bridge.log
            if ends:
                kernel.terminate()
                kernel.wait(5)
                connection_file.unlink(missing_ok=True)
                assert f"kernel {remote.kernel_id} is dead: no heartbeat" in await bridge.ended(30.0)
                assert bridge.process.exit_status == 1
        return remote.kernel_id

    async def work() -> None:
        await until(connection_file.exists)
        first = await bridged("--name", "my_tank")
        assert first.startswith("lab_")
        assert await bridged(ends=True) == first

    try:
        run(work())
    finally:
        kernel.terminate()
        kernel.wait(5)


def test_shutdown_ends_kernel_and_bridge(settings: Settings, router: Router, tmp_path: Path) -> None:
    async def work(file: KernelFile, bridge: BridgeProcess) -> None:
        async with connected(router, settings) as connection:
            remote = Remote(connection, file.kernel_id)
            await remote.there()
            await remote.call("shutdown")
            await bridge.ended()
            assert not file.alive()
            assert not runtime.kernel_file(settings.runtime_dir, file.kernel_id).exists()
            with pytest.raises(NoSuchProcedure):
                await remote.call("info")

    with a_kernel(settings, tmp_path) as file, BridgeProcess(settings, router, "--kernel-id", file.kernel_id) as bridge:
        run(work(file, bridge))


def test_an_idle_kernel_is_ended_after_its_interval_and_says_why(
    settings: Settings, router: Router, tmp_path: Path
) -> None:
    async def work(file: KernelFile, bridge: BridgeProcess) -> None:
        async with connected(router, settings) as connection:
            states = await Remote(connection, file.kernel_id).subscribe("state", get_retained=True)
            assert "it was idle for 1 s" in await bridge.ended(30.0)
            await until(lambda: states and states[-1]["state"] == "offline")
            assert states[-1]["reason"] == "it was idle for 1 s"
        assert not file.alive()

    with a_kernel(settings, tmp_path) as file:
        arguments = ("--kernel-id", file.kernel_id, "--shutdown-interval", "1")
        with BridgeProcess(settings, router, *arguments) as bridge:
            run(work(file, bridge))


def test_an_idle_kernel_of_somebody_else_is_let_go(settings: Settings, router: Router, tmp_path: Path) -> None:
    async def work(bridge: BridgeProcess, kernel_id: str) -> None:
        async with connected(router, settings) as connection:
            assert "letting it go" in await bridge.ended(30.0)
            (kernel,) = [one for one in await connection.call("io.timbr.kernel.list") if one["name"] == "let_go"]
            assert kernel["state"] == "offline"
            assert kernel["reason"] == "it was idle for 1 s, and its bridge let it go; it keeps running"

    with a_kernel(settings, tmp_path) as file:
        path = runtime.kernel_file(settings.runtime_dir, file.kernel_id)
        kept = path.read_bytes()
        path.unlink()  # the bridge then does not know that the kernel is ours
        arguments = (file.connection_file, "--name", "let_go", "--shutdown-interval", "1")
        with BridgeProcess(settings, router, *arguments) as bridge:
            run(work(bridge, file.kernel_id))
        assert file.alive()
        path.write_bytes(kept)
        path.chmod(0o600)


def test_what_cannot_be_bridged_is_said_in_one_sentence(settings: Settings, router: Router, tmp_path: Path) -> None:
    async def work(argument: str, expected: str) -> None:
        with BridgeProcess(settings, router, argument) as bridge:
            said = await bridge.ended()
            assert expected in said
            assert "Traceback" not in said

    run(work(str(tmp_path / "none.json"), "none.json: no such file"))
    (tmp_path / "bad.json").write_text("[1")
    run(work(str(tmp_path / "bad.json"), "is not a Jupyter connection file"))
