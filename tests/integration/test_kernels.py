"""Real kernels: they outlive their starter, are adopted, interrupted and restarted, whatever they print."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from wait_kit import BUSY_CELL, until

from timbr_wamp import runtime
from timbr_wamp.components import launcher
from timbr_wamp.components.kernel_supervisor import POLICY, KernelSupervisor
from timbr_wamp.contract import IopubMessage
from timbr_wamp.errors import CallTimeout, KernelDead, KernelNotManaged, KernelStartFailed, StartupFailed
from timbr_wamp.names import new_kernel_id
from timbr_wamp.runtime import KernelFile

pytestmark = pytest.mark.integration
T = TypeVar("T")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A runtime folder with a short path; every kernel in it is ended."""
    path = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    yield path
    for file in path.glob("kernel-*.json"):
        content = runtime.read_file(file, KernelFile)
        if content is not None:
            assert launcher.end_process(content)
    shutil.rmtree(path)


def run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(work, 50))


@contextlib.asynccontextmanager
async def supervised(
    folder: Path, file: KernelFile, outputs: list[IopubMessage] | None = None
) -> AsyncIterator[KernelSupervisor]:
    async def pace() -> None: ...

    heard: list[IopubMessage] = [] if outputs is None else outputs
    errors: list[Exception] = []
    supervisor = KernelSupervisor(
        file.kernel_id,
        Path(file.connection_file),
        folder,
        file=file,
        on_iopub=heard.append,
        on_change=lambda: None,
        pace=pace,
        on_error=errors.append,
    )
    try:
        await supervisor.open()
        yield supervisor
    finally:
        await supervisor.close()
    assert errors == []


def in_kernel(folder: Path, work: Callable[[KernelSupervisor], Awaitable[T]], **options: Any) -> T:
    """Start a kernel, run ``work`` with its supervisor, then disconnect from it."""

    async def body() -> T:
        file = launcher.start_kernel(folder, new_kernel_id("lab"), **options)
        async with supervised(folder, file) as supervisor:
            return await work(supervisor)

    return run(body())


async def value_of(supervisor: KernelSupervisor, expression: str) -> str:
    """Run ``print(expression)`` as a cell; return what it printed."""
    printed: list[str] = []

    def on_output(message: IopubMessage) -> None:
        if message.msg_type == "stream":
            printed.append(message.content["text"])

    reply = await supervisor.channels.execute(f"print({expression})", on_output=on_output)
    assert reply["status"] == "ok", reply
    return "".join(printed).strip()


def test_a_kernel_outlives_the_kill_of_its_starter_and_is_adopted(folder: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from timbr_wamp.components import launcher\n"
        f"launcher.start_kernel(Path({str(folder)!r}), 'lab_0123456789ab', name='pump')\n"
        "print('started', flush=True); sys.stdin.read()"
    )
    environment = {**os.environ, "JPY_PARENT_PID": str(os.getpid()), "TIMBR_WAMP_TOKEN": "lab.s3cret"}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"started\n"
        starter.send_signal(signal.SIGKILL)
        starter.wait(5)
    file = runtime.read_file(runtime.kernel_file(folder, "lab_0123456789ab"), KernelFile)
    assert file is not None

    async def work() -> None:
        async with supervised(folder, file) as supervisor:
            assert await value_of(supervisor, "6 * 7") == "42"
            # ipykernel would look for its parent once a second, in this thread
            poller = "__import__('ipykernel.kernelapp').kernelapp.IPKernelApp.instance().poller"
            assert await value_of(supervisor, poller) == "None"
            assert await value_of(supervisor, "__import__('os').environ.get('TIMBR_WAMP_TOKEN')") == "None"
        async with supervised(folder, file) as supervisor:
            assert (supervisor.state, supervisor.restarts) == ("idle", 0)

    run(work())
    assert file.alive()


def test_interrupt_reaches_a_busy_cell(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> None:
        cell = asyncio.create_task(supervisor.channels.execute("while True: pass"))
        await until(lambda: supervisor.state == "busy")
        await supervisor.channels.interrupt()
        reply = await asyncio.wait_for(cell, 10)
        assert (reply["status"], reply["ename"]) == ("error", "KeyboardInterrupt")
        await until(lambda: supervisor.state == "idle")

    in_kernel(folder, work)


def test_a_cell_over_its_time_is_interrupted_and_the_kernel_free_again(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> None:
        with pytest.raises(CallTimeout):
            await supervisor.channels.execute("while True: pass", timeout_s=1.0)
        assert await value_of(supervisor, "1") == "1"

    in_kernel(folder, work)


def test_completion_and_inspection_answer_while_a_cell_runs(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> None:
        await supervisor.channels.execute("apples = 5")
        cell = asyncio.create_task(supervisor.channels.execute(BUSY_CELL))
        await until(lambda: supervisor.state == "busy")
        assert "apples" in (await supervisor.channels.complete("app"))["matches"]
        assert (await supervisor.channels.inspect("apples"))["found"]
        assert supervisor.state == "busy"
        await supervisor.channels.interrupt()
        await cell

    in_kernel(folder, work)


def test_output_comes_in_order_and_whole_before_the_reply(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> list[str]:
        seen: list[str] = []

        def on_output(message: IopubMessage) -> None:
            if message.msg_type == "display_data":
                seen.append(message.content["data"]["text/plain"])

        await supervisor.channels.execute("for i in range(200): display(i)", on_output=on_output)
        return seen

    assert in_kernel(folder, work) == [str(i) for i in range(200)]


CHATTER = """
import threading, time
def chatter():
    while True:
        print("x", flush=True)
        time.sleep(0.05)
threading.Thread(target=chatter, daemon=True).start()
"""


def test_the_handshake_succeeds_with_a_kernel_that_prints_all_the_time(folder: Path) -> None:
    async def work() -> None:
        file = launcher.start_kernel(folder, new_kernel_id("lab"))
        async with supervised(folder, file) as supervisor:
            await supervisor.channels.execute(CHATTER)
        outputs: list[IopubMessage] = []
        async with supervised(folder, file, outputs) as supervisor:  # raises when it cannot attach within its limit
            await until(lambda: sum(message.msg_type == "stream" for message in outputs) > 5, "it prints")
            assert await value_of(supervisor, "6 * 7") == "42"

    run(work())


def test_a_bridge_that_comes_while_a_cell_runs_sees_it_busy(folder: Path) -> None:
    async def work() -> None:
        file = launcher.start_kernel(folder, new_kernel_id("lab"))
        async with supervised(folder, file) as first:
            cell = asyncio.create_task(first.channels.execute(BUSY_CELL))
            await until(lambda: first.state == "busy")
            async with supervised(folder, file) as second:
                assert second.state == "busy"
                await second.channels.interrupt()
                await cell
                await until(lambda: second.state == "idle")

    run(work())


def test_restart_keeps_the_id_and_file_and_forgets_the_rest(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> None:
        assert supervisor.file is not None
        pid = supervisor.file.pid
        await supervisor.channels.execute("kept = 1")
        waiting = asyncio.create_task(supervisor.channels.execute(BUSY_CELL))
        await until(lambda: supervisor.state == "busy")
        await supervisor.restart()
        with pytest.raises(KernelDead):
            await waiting
        assert supervisor.file.pid != pid
        assert (supervisor.state, supervisor.restarts) == ("idle", 1)
        assert await value_of(supervisor, "'kept' in globals()") == "False"

    in_kernel(folder, work)


def test_a_kernel_that_dies_is_started_again(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> None:
        with pytest.raises(KernelDead):
            await supervisor.channels.execute("import os; os._exit(3)")
        await until(lambda: supervisor.state == "restarting")
        assert supervisor.reason == "its process ended"
        await until(lambda: supervisor.restarts == 1 and supervisor.state == "idle")
        assert supervisor.reason == "its process ended; it was restarted"
        assert await value_of(supervisor, "1") == "1"

    in_kernel(folder, work)


def test_a_shutdown_ends_a_restart_in_progress_and_no_restart_follows_it(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> KernelFile:
        restart = asyncio.create_task(supervisor.restart())
        await until(lambda: supervisor.state == "restarting")
        await asyncio.gather(supervisor.shutdown(), asyncio.wait([restart]))
        assert isinstance(restart.exception(), KernelDead)
        with pytest.raises(KernelDead):
            await supervisor.restart()
        assert (supervisor.state, supervisor.reason) == ("dead", "it was ended")
        assert supervisor.file is not None
        return supervisor.file

    assert not in_kernel(folder, work).alive()
    assert list(folder.glob("kernel-*.json")) == []


def test_a_kernel_that_dies_at_once_is_not_restarted_and_the_reason_is_reported(folder: Path) -> None:
    startup = folder / "startup.py"
    startup.write_text("import os\nif os.path.exists('bomb'): os._exit(3)")

    async def work(supervisor: KernelSupervisor) -> None:
        (folder / "bomb").touch()
        with pytest.raises(KernelDead):
            await supervisor.channels.execute("import os; os._exit(3)")
        await until(lambda: "not restarted" in (supervisor.reason or ""), "it is given up", 40.0)
        assert (supervisor.state, supervisor.restarts) == ("dead", POLICY.limit)
        with pytest.raises(KernelDead):
            await supervisor.channels.execute("1")
        (folder / "bomb").unlink()
        await supervisor.restart()
        assert await value_of(supervisor, "1") == "1"

    in_kernel(folder, work, startup=str(startup), cwd=str(folder))


def test_exit_detaches_and_the_kernel_stays(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> None:
        for verb in ("exit", "quit()", "exit(keep_kernel=False)"):
            reply = await supervisor.channels.execute(verb)
            assert reply["payload"] == [{"source": "ask_exit", "keepkernel": True}]
        # by this the plain kernel's loop learns that it shall end, 0.1 s later
        assert await value_of(supervisor, "get_ipython().exit_now") == "False"
        assert supervisor.restarts == 0

    in_kernel(folder, work)


def test_the_startup_file_runs_after_each_start_and_its_failure_is_reported(folder: Path) -> None:
    startup = folder / "startup.py"
    startup.write_text("fruit = 'apple'")

    async def work(supervisor: KernelSupervisor) -> None:
        assert await value_of(supervisor, "fruit") == "apple"
        assert supervisor.reason is None
        startup.write_text("fruit = 'pear'\nraise ValueError('sour')")
        with pytest.raises(StartupFailed, match="line 2, failed: ValueError: sour"):
            await supervisor.restart()
        assert await value_of(supervisor, "fruit") == "pear"
        assert supervisor.reason == f"startup file {startup}, line 2, failed: ValueError: sour"
        assert supervisor.file is not None
        assert "ValueError: sour" in launcher.log_tail(supervisor.file)

    in_kernel(folder, work, startup=str(startup))


def test_shutdown_ends_the_process_and_removes_its_files(folder: Path) -> None:
    async def work(supervisor: KernelSupervisor) -> KernelFile:
        await supervisor.shutdown()
        with pytest.raises(KernelDead):
            await supervisor.channels.execute("1")
        assert supervisor.file is not None
        return supervisor.file

    assert not in_kernel(folder, work).alive()
    assert list(folder.iterdir()) == []


def test_a_reused_pid_is_never_signalled(folder: Path) -> None:
    file = launcher.start_kernel(folder, new_kernel_id("lab"))
    real_start = file.process_started
    file.process_started -= 1000.0
    assert launcher.end_process(file)
    file.process_started = real_start
    assert file.alive()


def test_a_kernel_of_somebody_else_is_neither_restarted_nor_ended(folder: Path) -> None:
    async def work() -> None:
        file = launcher.start_kernel(folder, new_kernel_id("lab"))

        async def pace() -> None: ...

        errors: list[Exception] = []
        theirs = KernelSupervisor(
            new_kernel_id("lab"),
            Path(file.connection_file),
            folder,
            file=None,
            on_iopub=lambda message: None,
            on_change=lambda: None,
            pace=pace,
            on_error=errors.append,
        )
        await theirs.open()
        with pytest.raises(KernelNotManaged):
            await theirs.restart()
        with pytest.raises(KernelNotManaged):
            await theirs.shutdown()
        # its owner restarts it behind our back: what waits ends, what comes later works
        waiting = asyncio.create_task(theirs.channels.execute(BUSY_CELL))
        await until(lambda: theirs.state == "busy")
        await asyncio.to_thread(launcher.restart_kernel, folder, file)
        with pytest.raises(KernelDead):
            await waiting
        assert (await theirs.channels.execute("1"))["status"] == "ok"
        await asyncio.to_thread(launcher.end_process, file)
        await until(lambda: theirs.state == "dead")
        await theirs.close()

    run(work())


def test_a_folder_or_startup_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(KernelStartFailed, match="no such folder: /nowhere"):
        launcher.start_kernel(folder, new_kernel_id("lab"), cwd="/nowhere")
    with pytest.raises(KernelStartFailed, match="no such startup file: /nowhere"):
        launcher.start_kernel(folder, new_kernel_id("lab"), startup="/nowhere.py")
    assert list(folder.iterdir()) == []
