"""All local services for the figures: ``timbr-wamp up``, one kernel, one machine, and helpers to query them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timbr_wamp
from benchmarks.common import ROOT, scratch_folder
from timbr_wamp import runtime
from timbr_wamp.client import Client, RemoteKernel, RemoteMachine
from timbr_wamp.router import find_crossbar, free_port
from timbr_wamp.settings import load_settings

#: Time limit of every step; the slowest takes a few seconds.
LIMIT_S = 180.0


@dataclass(frozen=True)
class LocalServices:
    """What `up` printed, and a connected client."""

    url: str
    token: str
    client: Client
    kernel: RemoteKernel
    machine: RemoteMachine
    environ: dict[str, str]

    def kernel_run(self, code: str) -> str:
        """Run code in the kernel; return what it printed."""
        texts: list[str] = []
        reply = self.kernel.run(
            code, on_output=lambda m: texts.append(m.content.get("text", "")) if m.msg_type == "stream" else None,
            timeout_s=LIMIT_S,
        )  # fmt: skip
        assert reply.status == "ok", (code, reply.ename, reply.evalue)
        return "".join(texts)

    def bridge_pid(self) -> int:
        """Return the process id of the kernel's bridge."""
        path = runtime.bridge_file(scratch_path(self.environ), self.kernel.id)
        file = runtime.read_file(path, runtime.BridgeFile)
        assert file is not None
        return file.pid


def scratch_path(environ: dict[str, str]) -> Any:
    """Return the runtime folder of the services."""
    from pathlib import Path

    return Path(environ["TIMBR_WAMP_RUNTIME_DIR"])


@contextmanager
def local_services(*, bufsize: int = 1024) -> Iterator[LocalServices]:
    """Start router, host and bridge in new folders, and a kernel with a machine of the three slots; end them all."""
    folder = scratch_folder()
    environ = {
        **os.environ, "TIMBR_WAMP_RUNTIME_DIR": str(folder / "run"), "TIMBR_WAMP_DATA_DIR": str(folder / "data"),
        "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "TIMBR_WAMP_HOST": "bench",
        "TIMBR_WAMP_CROSSBAR": str(find_crossbar(load_settings())),
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "timbr_wamp", "up", "--json", "--stop-kernels", "--port", str(free_port())],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        with timbr_wamp.connect(said["url"], said["token"], timeout_s=20) as client:
            kernel = client.start_kernel(name="bench", host="bench")
            code = (
                "import timbr_wamp, benchmarks.common as c\n"
                f"m = timbr_wamp.Machine(bufsize={bufsize})\nm[0:3] = c.SLOTS\nm.start()"
            )
            assert kernel.execute(code, timeout_s=60).status == "ok"
            wait_until(lambda: bool(kernel.machines()), 10)
            yield LocalServices(said["url"], said["token"], client, kernel, kernel.machine(), environ)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(40)
        finally:
            process.kill()
            process.wait(5)


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Wait until a condition holds; fail after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)


def quantile(values: list[float], part: float) -> float:
    """Return the value below which ``part`` of the values lie."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]
