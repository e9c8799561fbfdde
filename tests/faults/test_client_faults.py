"""What a reader of all records and a putter see when bridge, kernel or router is killed under them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from wait_kit import wait_until

import timbr_wamp
from timbr_wamp import runtime
from timbr_wamp.client import Client, RemoteKernel
from timbr_wamp.client.shared_connection import BRIDGE_RETURN_S
from timbr_wamp.contract import Event, Record
from timbr_wamp.errors import ConnectionLost, KernelDead, NoSuchProcedure, TimbrError
from timbr_wamp.router import Router
from timbr_wamp.router import free_port as pick_free_port
from timbr_wamp.settings import ENV_PREFIX, Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


class Node:
    """A router and a host for the tests of this file, which kill the router and start it again."""

    def __init__(self, settings: Settings, lasting_routers: list[Router]) -> None:
        self.settings, self._lasting_routers = settings, lasting_routers
        self.port = pick_free_port()
        self.start_router()
        environ = {
            **os.environ,
            f"{ENV_PREFIX}RUNTIME_DIR": str(settings.runtime_dir),
            f"{ENV_PREFIX}DATA_DIR": str(settings.data_dir),
        }
        self.host = subprocess.Popen([sys.executable, "-m", "timbr_wamp", "host"], env=environ)
        try:
            wait_until(runtime.host_file(settings.runtime_dir, self.router.unix_url).exists)
        except BaseException:
            self.close()
            raise

    def restart_router(self) -> None:
        self.kill_router()
        self.start_router()

    def kill_router(self) -> None:
        processes = [*psutil.Process(self.router.pid).children(recursive=True), psutil.Process(self.router.pid)]
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes[:-1], timeout=10.0)
        self._lasting_routers.remove(self.router)
        self.router.stop()

    def start_router(self) -> None:
        self.router = Router.start(self.settings, port=self.port)
        self._lasting_routers.append(self.router)

    def close(self) -> None:
        self.host.terminate()
        self.host.wait(30)
        if self.router in self._lasting_routers:
            self._lasting_routers.remove(self.router)
        self.router.stop()


class LocalServices:
    """A kernel with a machine, for one test alone, on a node: all of them are killed and restarted."""

    def __init__(self, node: Node, startup: Path) -> None:
        self.node, self.settings = node, node.settings
        self.client: Client | None = timbr_wamp.connect(settings=node.settings)
        self.kernel: RemoteKernel | None = None
        try:
            self.kernel = self.client.start_kernel("spring", str(startup))
            wait_until(self.machine_is_there)
            self.machine = self.kernel.machine()
            self.machine.start()
        except BaseException:
            self.close()
            raise

    def machine_is_there(self) -> bool:
        with suppress(TimbrError):
            return bool(self.kernel and self.kernel.machines())
        return False

    def kill_bridge(self, by: signal.Signals = signal.SIGKILL) -> None:
        assert self.kernel is not None
        path = runtime.bridge_file(self.settings.runtime_dir, self.kernel.id)
        file = runtime.read_file(path, runtime.BridgeFile)
        assert file is not None
        os.kill(file.pid, by)

    def bridge_is_gone(self) -> bool:
        """The router knows that the bridge ended; a call under way there would have been lost."""
        assert self.client is not None
        assert self.kernel is not None
        try:
            self.client.call(f"io.timbr.kernel.{self.kernel.id}.ping")
        except NoSuchProcedure:
            return True
        except ConnectionLost:
            return False
        return False

    def close(self) -> None:
        assert self.client is not None
        with suppress(TimbrError):
            if self.kernel is not None:
                self.kernel.shutdown()
        self.client.close()


@pytest.fixture(scope="module")
def node(module_settings: Settings, lasting_routers: list[Router]) -> Iterator[Node]:
    made = Node(module_settings, lasting_routers)
    yield made
    made.close()


@pytest.fixture
def services(node: Node, tmp_path: Path) -> Iterator[LocalServices]:
    startup = tmp_path / "machines.py"
    startup.write_text("import timbr_wamp\nm = timbr_wamp.Machine(stages=3, bufsize=2000)\n")
    made = LocalServices(node, startup)
    yield made
    made.close()


def test_a_killed_bridge_costs_no_record_and_puts_are_repeated(services: LocalServices):
    machine = services.machine
    with machine.records(timeout_s=40.0) as records:
        oids = [machine.put(number) for number in range(50)]
        services.kill_bridge()
        oids += [machine.put(number) for number in range(50, 100)]
        seen = [next(records) for _ in range(100)]
    assert [record.oid for record in seen] == oids
    assert [record.input for record in seen] == list(range(100))


def test_a_killed_bridge_is_waited_for_by_every_call(services: LocalServices):
    assert services.kernel is not None
    run = services.machine.status.run
    calls = [services.kernel.ping, lambda: services.machine.set(0, "lambda x: x * 2"), lambda: services.machine(4)]
    for call in calls:
        services.kill_bridge()
        wait_until(services.bridge_is_gone)
        assert call()
    assert services.machine.status.run == run


def test_a_kernel_that_ended_is_not_waited_for(services: LocalServices):
    assert services.kernel is not None
    services.kernel.shutdown()
    wait_until(services.bridge_is_gone)
    began = time.monotonic()
    with pytest.raises(NoSuchProcedure):
        services.machine.status  # noqa: B018
    assert time.monotonic() - began < BRIDGE_RETURN_S / 2


def test_a_killed_kernel_is_told_to_who_follows_its_machine(services: LocalServices):
    assert services.kernel is not None
    events: list[Event] = []
    subscription = services.machine.on("*", events.append)
    pid = services.kernel.info().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: any(event.kind in ("kernel_dead", "kernel_restarting") for event in events))
    first = next(event for event in events if event.kind.startswith("kernel_"))
    assert first.data["reason"]
    if services.kernel.info().state == "dead":
        with pytest.raises(KernelDead):
            services.machine.put(1)
        services.kernel.restart()
    wait_until(lambda: "kernel_back" in [event.kind for event in events])
    subscription.unsubscribe()


#: Gives twenty messages, and 280 more when there is a file.
GATED_SOURCE = """
def numbers():
    import os, time
    yield from range(20)
    while not os.path.exists({gate!r}):
        time.sleep(0.005)
    yield from range(20, 300)
"""


def test_a_killed_router_costs_no_record_and_puts_are_repeated(services: LocalServices, tmp_path: Path):
    machine = services.machine
    with machine.records(timeout_s=60.0) as records:
        machine.set_source(GATED_SOURCE.format(gate=str(tmp_path / "gate")))
        first = [next(records) for _ in range(20)]
        services.node.kill_router()
        (tmp_path / "gate").touch()  # the rest is made while there is no router
        services.node.start_router()
        oid = machine.put("after")
        seen = first + [next(records) for _ in range(281)]
    assert all(isinstance(record, Record) for record in seen)
    assert [record.input for record in seen if record.input != "after"] == list(range(300))
    assert [record.oid for record in seen if record.input == "after"] == [oid]


def test_a_call_waits_for_a_bridge_that_comes_back_after_its_caller(services: LocalServices):
    services.kill_bridge(signal.SIGSTOP)
    services.node.restart_router()
    services.client.wait_connected(30.0)
    with pytest.raises(NoSuchProcedure):  # a call of the router's own, which waits for nobody
        services.client.call(f"io.timbr.kernel.{services.kernel.id}.ping")
    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(lambda: services.machine.status)
        assert not wait([status], timeout=0.5).done, "answered by a bridge that is stopped"
        services.kill_bridge(signal.SIGCONT)
        assert status.result(30).running


def test_a_restarted_kernel_goes_on_in_its_run(services: LocalServices):
    machine = services.machine
    with machine.records(timeout_s=60.0) as records:
        machine.put("old")
        assert next(records).input == "old"
        services.kernel.restart()
        wait_until(services.machine_is_there)
        machine.start()
        machine.put("new")
        item = next(records)
    assert isinstance(item, Record)
    assert (item.input, item.seq) == ("new", 2)
