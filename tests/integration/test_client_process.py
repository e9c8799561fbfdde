"""A client in a process of its own: how it ends, forks, and what it says when it does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading

import pytest

import timbr_wamp
from timbr_wamp.errors import LoopClosed, NotConnected, TokenRejected
from timbr_wamp.router import Router
from timbr_wamp.settings import Settings

pytestmark = pytest.mark.integration


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script as a user would, with every warning shown."""
    command = [sys.executable, "-X", "dev", "-c", textwrap.dedent(script)]
    return subprocess.run(command, capture_output=True, text=True, timeout=40, env=dict(os.environ), check=False)


@pytest.mark.parametrize("ending", ["", "client.close()", "raise SystemExit(0)"])
def test_a_process_ends_quietly_with_its_client_open_or_closed(router: Router, ending: str):
    done = run(
        f"""
        import timbr_wamp
        client = timbr_wamp.connect()
        client.on("io.timbr.kernel.discovery", print)
        client.kernels()
        {ending}
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_forked_child_must_connect_again(router: Router):
    done = run(
        """
        import os, timbr_wamp
        client = timbr_wamp.connect()
        pid = os.fork()
        if pid == 0:
            try:
                client.kernels()
            except timbr_wamp.TimbrError as error:
                print(type(error).__name__)
            with timbr_wamp.connect() as own:
                print(own.connected, flush=True)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print(client.connected)
        client.close()
        """
    )
    assert done.stdout.split() == ["ForkedClient", "True", "True"], done.stderr


def test_a_client_works_inside_a_running_loop_and_after_close_refuses(router: Router, settings: Settings):
    import asyncio

    async def main() -> None:
        with timbr_wamp.connect(settings=settings) as client:
            assert client.kernels() == await client.aio.kernels()
            assert client.role == "admin"

    asyncio.run(main())
    client = timbr_wamp.connect(settings=settings)
    client.close()
    client.close()
    assert not client.connected
    with pytest.raises(LoopClosed):
        client.kernels()


def test_failing_to_connect_leaves_no_thread(router: Router, settings: Settings, free_port: int):
    before = set(threading.enumerate())
    with pytest.raises(TokenRejected):
        timbr_wamp.connect(token="admin.wrong", settings=settings)
    with pytest.raises(NotConnected):
        timbr_wamp.connect(f"ws://127.0.0.1:{free_port}/ws", "a.b", timeout_s=0.3, settings=settings)
    assert set(threading.enumerate()) <= before


def test_connecting_without_blocking_the_loop(router: Router, settings: Settings):
    import asyncio

    from timbr_wamp.client import connect_async

    async def main() -> None:
        async with await connect_async(settings=settings) as client:
            assert isinstance(await client.kernels(), list)

    asyncio.run(main())


def test_a_client_may_close_itself_in_its_own_callback(router: Router, settings: Settings):
    client = timbr_wamp.connect(settings=settings)
    closed = threading.Event()

    def close(details: object) -> None:
        client.close()
        closed.set()

    client.on("wamp.session.on_join", close)
    timbr_wamp.connect(settings=settings).close()
    assert closed.wait(10.0)
    assert not client.connected
