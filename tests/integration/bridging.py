"""Helpers for tests of bridges and hosts: kernels, bridge processes, a connection, a machine made of sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import zmq
from wait_kit import until

from timbr_wamp import runtime
from timbr_wamp.client.connection import Connection
from timbr_wamp.components import launcher
from timbr_wamp.components.bridge_process import BridgeEnvironment
from timbr_wamp.contract import Status, to_builtins
from timbr_wamp.errors import ConnectionLost, NoSuchProcedure, NotConnected
from timbr_wamp.names import kernel_uri, new_kernel_id
from timbr_wamp.processes import spawn
from timbr_wamp.router import Router
from timbr_wamp.runtime import KernelFile, MachineFile
from timbr_wamp.settings import Settings

T = TypeVar("T")

MACHINE_STARTUP = "from timbr_wamp.machine import Machine\nm = Machine()\n"


def run(work: Coroutine[Any, Any, T], limit_s: float = 50.0) -> T:
    return asyncio.run(asyncio.wait_for(work, limit_s))


@contextlib.contextmanager
def a_kernel(settings: Settings, tmp_path: Path, startup: str | None = None) -> Iterator[KernelFile]:
    """A kernel of ours, with its startup text; ended and forgotten afterwards."""
    file_name = None
    if startup is not None:
        (tmp_path / "startup.py").write_text(startup)
        file_name = str(tmp_path / "startup.py")
    kernel_id = new_kernel_id(settings.host)
    launcher.start_kernel(settings.runtime_dir, kernel_id, startup=file_name, cwd=str(tmp_path))
    file = runtime.read_file(runtime.kernel_file(settings.runtime_dir, kernel_id), KernelFile)
    assert file is not None
    try:
        yield file
    finally:
        # a bridge may have restarted it meanwhile
        file = runtime.read_file(runtime.kernel_file(settings.runtime_dir, kernel_id), KernelFile) or file
        assert launcher.end_process(file)
        launcher.forget_kernel(settings.runtime_dir, file)


class BridgeProcess:
    """A bridge as users start it: ``python -m timbr_wamp bridge``."""

    def __init__(self, settings: Settings, router: Router, *arguments: str) -> None:
        self._log = settings.runtime_dir / f"log-test-{secrets.token_hex(4)}.txt"
        variables = BridgeEnvironment(
            settings.runtime_dir, router.unix_url, settings.realm, router.host_token, "info"
        ).variables()
        command = [sys.executable, "-m", "timbr_wamp", "bridge", *arguments]
        self.process = spawn(command, environment=variables, log_file=self._log)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.signal(signal.SIGKILL)

    async def ended(self, timeout_s: float = 15.0) -> str:
        """Wait until it ended by itself; return what it said."""
        await until(lambda: not self.alive, "the bridge ended", timeout_s)
        return self.log

    def __enter__(self) -> BridgeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.end(term_s=10.0)
        self._log.unlink()


class HostChild:
    """A host as users start it: ``python -m timbr_wamp host``."""

    def __init__(self, settings: Settings, router: Router, token: str | None = None) -> None:
        self._log = settings.runtime_dir / f"log-test-{secrets.token_hex(4)}.txt"
        variables = BridgeEnvironment(
            settings.runtime_dir, router.unix_url, settings.realm, token or router.host_token, "info"
        ).variables()
        command = [sys.executable, "-m", "timbr_wamp", "host"]
        self.process = spawn(command, environment=variables, log_file=self._log)

    @property
    def alive(self) -> bool:
        return self.process.alive

    @property
    def log(self) -> str:
        return self._log.read_text()

    def signal(self, number: signal.Signals) -> None:
        self.process.signal(number)

    def __enter__(self) -> HostChild:
        return self

    def __exit__(self, *_: object) -> None:
        ended = self.process.end(term_s=20.0)
        log = self._log.read_text()
        self._log.unlink()
        assert ended, log


@contextlib.asynccontextmanager
async def connected(router: Router, settings: Settings, token: str | None = None) -> AsyncIterator[Connection]:
    connection = Connection(router.unix_url, settings.realm, token or router.admin_token)
    await connection.open()
    try:
        yield connection
    finally:
        await connection.close()


class Remote:
    """A kernel as a caller sees it."""

    def __init__(self, connection: Connection, kernel_id: str) -> None:
        self.connection, self.kernel_id = connection, kernel_id

    def uri(self, *parts: str) -> str:
        return kernel_uri(self.kernel_id, *parts)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        return await self.connection.call(self.uri(*name.split(".")), *args, **options)

    async def there(self, timeout_s: float = 20.0) -> Any:
        """Wait until the kernel is on the router and answers; return its info."""

        async def info() -> Any:
            found = await self.call("info")
            return found if found["state"] in ("idle", "busy") else None

        absent = (NoSuchProcedure, NotConnected, ConnectionLost)  # the last: a bridge that was just killed
        return await until(info, f"{self.kernel_id} is on the router", timeout_s, not_yet=absent)

    async def listed(self) -> None:
        """Wait until the router's list names the kernel: it answers a little before it is announced."""

        async def named() -> bool:
            kernels = await self.connection.call("io.timbr.kernel.list")
            return self.kernel_id in [kernel["kernel_id"] for kernel in kernels]

        await until(named, f"{self.kernel_id} is in the list")

    async def machine_there(self, name: str = "machine") -> None:
        """Wait until the kernel's state names the machine."""

        async def named() -> bool:
            return name in [brief["name"] for brief in (await self.there())["machines"]]

        await until(named, f"there is a machine {name}")

    async def subscribe(self, name: str, *, get_retained: bool = False) -> list[Any]:
        """Return a list that grows by the first argument of each event."""
        events: list[Any] = []
        await self.connection.subscribe(
            self.uri(*name.split(".")),
            lambda *args, details, **kwargs: events.append(args[0]),
            get_retained=get_retained,
        )
        return events


class SocketMachine:
    """A machine made of sockets: speaks the local wire, sees who subscribes, sends what the test says.

    Its records are ``[n]`` for numbers n; all from ``first_kept`` on are given as refills.
    """

    def __init__(self, settings: Settings, file: KernelFile, name: str = "machine") -> None:
        self.run, self.name = secrets.token_hex(8), name
        self.last_seq, self.first_kept = 0, 1
        self.refills: list[int] = []
        #: Topics of those who listen now, in the order in which they came.
        self.listeners: list[bytes] = []
        #: How many came.
        self.came = 0
        self._context = zmq.Context()
        self._pub, self._control = self._context.socket(zmq.XPUB), self._context.socket(zmq.ROUTER)
        stem = settings.runtime_dir / f"t-{secrets.token_hex(4)}"
        self._pub.bind(f"ipc://{stem}.p")
        self._control.bind(f"ipc://{stem}.c")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        content = MachineFile(
            pid=os.getpid(),
            process_started=runtime.own_process_started(),
            name=name,
            run=self.run,
            pub=f"ipc://{stem}.p",
            control=f"ipc://{stem}.c",
            connection_file=os.path.realpath(file.connection_file),
            opened_at=time.time(),
        )
        self._path = runtime.write_file(settings.runtime_dir / f"machine-{os.getpid()}-{name}.json", content)

    def publish(self, count: int, *, lost: Callable[[int], bool] = lambda seq: False) -> None:
        """Finish ``count`` records; those that are ``lost`` never reach a subscriber."""
        for _ in range(count):
            self.last_seq += 1
            if not lost(self.last_seq):
                self.send(self.last_seq, self.last_seq)

    def send(self, first: int, last: int, *, sampled: int = 1) -> None:
        """Send records as one batch to all listeners."""
        batch = self.batch(first, last)
        with self._lock:
            for topic in self.listeners:
                head = [self.run, first, last, batch["count"], [], sampled, 0, False]
                self._pub.send_multipart([topic, json.dumps(head).encode(), batch["block"].encode()])

    def batch(self, first: int, last: int) -> dict[str, Any]:
        rows = [self.row(seq) for seq in range(first, last + 1)]
        return {
            "run": self.run, "first_seq": first, "last_seq": last, "count": len(rows), "layout": [],
            "block": json.dumps(rows),
        }  # fmt: skip

    def row(self, seq: int) -> list[Any]:
        meta = {"run": self.run, "seq": seq, "attempt": 1, "revision": 1}
        meta |= {"received_at": 0.0, "finished_at": 0.0, "errored": False}
        return [seq, f"{seq:024x}", [seq], meta]

    def __enter__(self) -> SocketMachine:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink()
        self._closing.set()
        self._thread.join(5)
        self._context.destroy(linger=0)

    def _serve(self) -> None:
        while not self._closing.is_set():
            with self._lock:
                while self._pub.poll(0):
                    change = self._pub.recv()
                    if change[0] == 1:
                        self.listeners.append(change[1:])
                        self.came += 1
                    else:
                        self.listeners.remove(change[1:])
            if self._control.poll(10):
                identity, frame = self._control.recv_multipart()
                number, name, args, _, _ = msgspec.msgpack.decode(frame)
                value = self._answer(name, args)
                self._control.send_multipart([identity, msgspec.msgpack.encode([number, "result", value])])

    def _answer(self, name: str, args: list[Any]) -> Any:
        status = to_builtins(Status(name=self.name, run=self.run, state="running", last_seq=self.last_seq))
        if name == "status":
            return status
        if name in ("__received__", "__cancel__"):
            return None
        if name == "__changes__":
            time.sleep(min(args[2], 0.05))  # a poll that is answered early is a poll all the same
            return {"status": status, "events": [], "errors": [], "event_number": 0, "error_number": 0}
        assert name == "records", name
        _, after_seq, limit = args
        self.refills.append(after_seq)
        first = max(after_seq + 1, self.first_kept)
        last = min(first + limit - 1, self.last_seq)
        batches = [self.batch(first, last)] if first <= last else []
        return {"run": self.run, "first_available": self.first_kept, "last_seq": self.last_seq, "batches": batches}
