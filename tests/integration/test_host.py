"""A host on a real router: starts, lists, restarts and stops kernels, and takes up what it finds."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from bridging import HostChild, Remote, connected, run
from wait_kit import until

from timbr_wamp import runtime
from timbr_wamp.client.connection import Connection
from timbr_wamp.components import launcher
from timbr_wamp.components.bridge_process import BridgeEnvironment, BridgeProcess
from timbr_wamp.errors import KernelStartFailed, NoSuchProcedure, UnknownKernel
from timbr_wamp.names import host_uri
from timbr_wamp.processes import Process
from timbr_wamp.router import Router
from timbr_wamp.runtime import BridgeFile, HostFile, KernelFile
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _no_kernel_is_left(settings: Settings) -> Iterator[None]:
    yield
    folder = settings.runtime_dir
    for bridge in runtime.live_files(folder, "bridge-", BridgeFile).values():
        process = Process.of(bridge)
        assert process is None or process.end(term_s=10.0)
    for path in folder.glob("kernel-*.json"):
        file = runtime.read_file(path, KernelFile)
        if file is not None:
            assert launcher.end_process(file)
            launcher.forget_kernel(folder, file)


async def ask(connection: Connection, name: str, /, **arguments: Any) -> Any:
    """Call the host; wait for it to come if it is not there yet."""

    async def answer() -> list[Any]:
        return [await connection.call(host_uri("lab", name), timeout_s=40.0, **arguments)]

    (value,) = await until(answer, "the host is on the router", not_yet=(NoSuchProcedure,))
    return value


def bridge_of(settings: Settings, kernel_id: str) -> BridgeFile:
    file = runtime.read_file(runtime.bridge_file(settings.runtime_dir, kernel_id), BridgeFile)
    assert file is not None
    return file


def test_kernels_are_started_listed_restarted_and_stopped(settings: Settings, router: Router, tmp_path: Path) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            startup = tmp_path / "startup.py"
            startup.write_text("fruit = 'apple'")
            info = await ask(connection, "start", name="tank", startup=str(startup), cwd=str(tmp_path))
            assert (info["name"], info["state"], info["host"], info["cwd"]) == ("tank", "idle", "lab", str(tmp_path))
            remote = Remote(connection, info["kernel_id"])
            assert (await remote.call("execute", "assert fruit == 'apple'; fruit = 'pear'"))["status"] == "ok"
            listed = await ask(connection, "list")
            assert [kernel["kernel_id"] for kernel in listed] == [info["kernel_id"]]
            again = await ask(connection, "restart", kernel_id=info["kernel_id"])
            assert (again["kernel_id"], again["restarts"]) == (info["kernel_id"], 1)
            assert again["pid"] != info["pid"]
            assert (await remote.call("execute", "assert fruit == 'apple'"))["status"] == "ok"
            await ask(connection, "stop", kernel_id=info["kernel_id"])
            assert await ask(connection, "list") == []
            assert not runtime.kernel_file(settings.runtime_dir, info["kernel_id"]).exists()
            with pytest.raises(NoSuchProcedure):
                await remote.call("info")
            with pytest.raises(UnknownKernel):
                await ask(connection, "stop", kernel_id=info["kernel_id"])

    with HostChild(settings, router):
        run(work())


def test_no_secret_is_in_an_argument_a_name_a_log_or_what_others_can_ask(settings: Settings, router: Router) -> None:
    secret_texts = [token.partition(".")[2] for token in (router.admin_token, router.host_token)]

    async def work() -> None:
        async with connected(router, settings) as connection:
            info = await ask(connection, "start", name="discreet")
            remote = Remote(connection, info["kernel_id"])
            await remote.call("execute", "print('said')")
            path = runtime.kernel_file(settings.runtime_dir, info["kernel_id"])
            kernel = runtime.read_file(path, KernelFile)
            assert kernel is not None
            key = json.loads(Path(kernel.connection_file).read_text())["key"]
            assert len(key) >= 32
            processes = [psutil.Process(pid) for pid in (router.pid, host.process.pid, kernel.pid)]
            processes.append(psutil.Process(bridge_of(settings, info["kernel_id"]).pid))
            for process in [*processes, *processes[0].children(recursive=True)]:
                arguments = " ".join(process.cmdline())
                assert not any(text in arguments for text in (*secret_texts, key)), process.name()
            environment = processes[2].environ()
            assert not any(text in value for text in secret_texts for value in environment.values())
            seen = [repr(kernel), repr(router), repr(host.log), str(info), str(await ask(connection, "list"))]
            seen.append(str(await connection.call("io.timbr.kernel.list")))
            for folder in (settings.runtime_dir, router.node_dir):
                files = [each for each in folder.rglob("*") if each.is_file() and not each.is_socket()]
                seen += [str(each) for each in folder.rglob("*")]
                seen += [each.read_text(errors="replace") for each in files if each.suffix in (".txt", ".log", ".1")]
                for each in files:  # a key is in its connection file alone, which others cannot read
                    if key.encode() in each.read_bytes():
                        assert each == Path(kernel.connection_file)
                        assert each.stat().st_mode & 0o777 == 0o600
            assert not [text for text in seen if key in text]
            assert not [text for text in seen for secret in secret_texts if secret in text]
            await ask(connection, "stop", kernel_id=info["kernel_id"])

    with HostChild(settings, router) as host:
        run(work())


def test_a_kernel_that_cannot_start_is_reported_with_the_reason(
    settings: Settings, router: Router, tmp_path: Path
) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            with pytest.raises(KernelStartFailed, match="no such startup file"):
                await ask(connection, "start", startup="/nowhere")
            startup = tmp_path / "startup.py"
            startup.write_text("import os, sys\nsys.__stderr__.write('no licence')\nos._exit(1)")
            with pytest.raises(KernelStartFailed, match="no licence"):
                await ask(connection, "start", startup=str(startup))
            assert await ask(connection, "list") == []
            assert list(settings.runtime_dir.glob("kernel-*.json")) == []

    with HostChild(settings, router):
        run(work())


def test_a_bridge_that_is_killed_is_started_again(settings: Settings, router: Router) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            info = await ask(connection, "start")
            kernel_id = info["kernel_id"]
            before = bridge_of(settings, kernel_id)
            os.kill(before.pid, signal.SIGKILL)
            await until(lambda: bridge_of(settings, kernel_id).pid != before.pid)
            assert (await Remote(connection, kernel_id).there())["pid"] == info["pid"]

    with HostChild(settings, router):
        run(work())


def test_kernels_outlive_their_host_and_the_next_one_adopts_them(settings: Settings, router: Router) -> None:
    async def begin() -> Any:
        async with connected(router, settings) as connection:
            info = await ask(connection, "start", name="tank")
            await Remote(connection, info["kernel_id"]).call("execute", "kept = 1")
            return info

    async def adopted(before: Any) -> None:
        async with connected(router, settings) as connection:
            info = await Remote(connection, before["kernel_id"]).there()
            assert (info["pid"], info["name"]) == (before["pid"], "tank")
            reply = await Remote(connection, before["kernel_id"]).call("execute", "assert kept == 1")
            assert reply["status"] == "ok"
            await until_listed(connection, before["kernel_id"])

    with HostChild(settings, router):
        info = run(begin())
    assert not runtime.host_file(settings.runtime_dir, router.unix_url).exists()
    assert runtime.process_alive(info["pid"], runtime.process_started(info["pid"]) or 0.0)
    assert not runtime.bridge_file(settings.runtime_dir, info["kernel_id"]).exists()
    with HostChild(settings, router) as second:
        run(adopted(info))
        # killed, it leaves the bridge as well; the third one takes both over as they are
        bridge = bridge_of(settings, info["kernel_id"])
        second.signal(signal.SIGKILL)
    with HostChild(settings, router):
        run(adopted(info))
        assert bridge_of(settings, info["kernel_id"]).pid == bridge.pid


def test_a_host_that_begins_while_a_bridge_starts_adopts_it(settings: Settings, router: Router) -> None:
    async def begin() -> Any:
        async with connected(router, settings) as connection:
            return await ask(connection, "start", name="tank")

    async def adopted(kernel_id: str) -> None:
        async with connected(router, settings) as connection:
            await Remote(connection, kernel_id).there()
            await until_listed(connection, kernel_id)

    with HostChild(settings, router) as first:
        info = run(begin())
        first.signal(signal.SIGKILL)
    kernel_id = info["kernel_id"]
    old = Process.of(bridge_of(settings, kernel_id))
    assert old is not None
    assert old.end(term_s=0.0)
    environment = BridgeEnvironment(settings.runtime_dir, router.unix_url, settings.realm, router.host_token)
    starting = BridgeProcess(environment, kernel_id, hosted=True)  # as the first host started one when it was killed
    starting.supervisor.start()
    process = starting.supervisor.process
    assert process is not None
    assert process.signal(signal.SIGSTOP)
    assert not starting.ready
    with HostChild(settings, router):
        run(settled(settings, router))
        assert process.signal(signal.SIGCONT)
        run(adopted(kernel_id))
        assert bridge_of(settings, kernel_id).pid == process.pid
        assert (settings.runtime_dir / f"log-bridge-{kernel_id}.txt").exists()


def test_a_second_host_with_the_same_token_elsewhere_is_refused_and_the_first_goes_on(
    settings: Settings, own_settings: Settings, router: Router
) -> None:
    async def work(second: HostChild) -> None:
        async with connected(router, settings) as connection:
            assert await ask(connection, "list") == []
            await until(lambda: not second.alive)
            assert "another host is on the router as 'lab'" in second.log
            assert len(second.log.strip().splitlines()) < 6
            assert "Traceback" not in second.log
            assert await ask(connection, "list") == []

    own_settings.runtime_dir.mkdir(mode=0o700, exist_ok=True)  # another computer, as far as files tell
    with HostChild(settings, router):
        run(settled(settings, router))
        with HostChild(own_settings, router) as second:
            run(work(second))


async def until_listed(connection: Connection, kernel_id: str) -> None:
    async def idle() -> bool:
        return kernel_id in [
            kernel["kernel_id"] for kernel in await ask(connection, "list") if kernel["state"] == "idle"
        ]

    await until(idle, "it is in the list")


def test_a_kernel_that_was_shut_down_leaves_the_list(settings: Settings, router: Router) -> None:
    async def work() -> None:
        async with connected(router, settings) as connection:
            info = await ask(connection, "start")
            await Remote(connection, info["kernel_id"]).call("shutdown")

            async def gone() -> bool:
                return await ask(connection, "list") == []

            assert await until(gone, "it left the list")

    with HostChild(settings, router):
        run(work())


def test_what_a_dead_kernel_left_is_removed_at_the_start(settings: Settings, router: Router) -> None:
    file = launcher.start_kernel(settings.runtime_dir, "lab_0123456789ab")
    assert launcher.end_process(file)

    async def work() -> None:
        async with connected(router, settings) as connection:
            assert await ask(connection, "list") == []
            assert not list(settings.runtime_dir.glob("*lab_0123456789ab*"))

    with HostChild(settings, router):
        run(work())


def test_a_second_host_is_refused_in_one_sentence(settings: Settings, router: Router) -> None:
    async def work(second: HostChild) -> None:
        await until(lambda: not second.alive)
        assert "already uses" in second.log
        assert "Traceback" not in second.log

    with HostChild(settings, router):
        run(settled(settings, router))
        with HostChild(settings, router) as second:
            run(work(second))


def test_a_host_whose_token_has_another_role_says_so(settings: Settings, router: Router) -> None:
    async def work(host: HostChild) -> None:
        await until(lambda: not host.alive)
        assert "a token of the role host" in host.log
        assert "another host" not in host.log

    with HostChild(settings, router, router.admin_token) as host:
        run(work(host))


async def settled(settings: Settings, router: Router) -> None:
    """Wait until the host says that it is there."""
    path = runtime.host_file(settings.runtime_dir, router.unix_url)
    await until(lambda: runtime.read_file(path, HostFile) is not None)
