"""Folders of one node and the command run in them, as a user types it; for tests of the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from timbr_wamp.router import free_port as pick_free_port

#: The whole node is up within this time on a busy computer; usually in 8 s.
UP_LIMIT_S = 60.0
COMMAND_LIMIT_S = 30.0


class Home:
    """Folders of one node, and the command run in them.

    Args:
        program: the command; this Python's by default.
    """

    def __init__(self, crossbar: Path, program: Sequence[str] = (sys.executable, "-m", "timbr_wamp")) -> None:
        self._program = list(program)
        self.folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("TIMBR_WAMP_")}
        self.environ |= {f"TIMBR_WAMP_{kind.upper()}_DIR": str(self.folder / kind) for kind in ("data", "config")}
        self.environ |= {
            "TIMBR_WAMP_RUNTIME_DIR": str(self.folder / "run"),
            "TIMBR_WAMP_HOST": "lab",
            "TIMBR_WAMP_CROSSBAR": str(crossbar),
            "NO_COLOR": "1",
            "COLUMNS": "120",
        }

    def run(self, *words: str, status: int = 0, stdin: str | None = None, **environ: str) -> str:
        """Run a command to its end; return its stdout, or its stderr when it should fail."""
        done = subprocess.run(
            [*self._program, *words],
            env=self.environ | environ,
            cwd=self.folder,
            input=stdin,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=COMMAND_LIMIT_S,
        )
        assert done.returncode == status, f"{words}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr or words[0] == "exec"
        return done.stderr if status else done.stdout

    def json(self, *words: str) -> Any:
        """Run a command with ``--json``; return what it printed."""
        return json.loads(self.run(*words, "--json"))

    def popen(self, *words: str, stdin: int | None = None, **environ: str) -> subprocess.Popen[str]:
        """Start a command that runs until it is ended."""
        return subprocess.Popen(
            [*self._program, *words],
            env=self.environ | environ,
            cwd=self.folder,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @contextmanager
    def up(self, *words: str, command: str = "up") -> Iterator[dict[str, Any]]:
        """Run ``up --json``; give what it says; end it with Ctrl-C and check that it ends well."""
        process = self.popen(command, "--json", "--port", str(pick_free_port()), *words)
        printed = first_line(process, UP_LIMIT_S)
        try:
            yield {**json.loads(printed), "process": process}
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
        assert process.returncode == 0, stderr
        assert "ending the router" in stderr

    def processes(self) -> list[psutil.Process]:
        """Return the processes that belong to this home, by their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("TIMBR_WAMP_RUNTIME_DIR") == self.environ["TIMBR_WAMP_RUNTIME_DIR"]
                if mine and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def close(self) -> None:
        """End what is left, remove the folders."""
        left = self.processes()
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=5.0)
        shutil.rmtree(self.folder, ignore_errors=True)


def first_line(process: subprocess.Popen[str], limit_s: float) -> str:
    """Return the first line of a process's stdout; fail with its stderr when it ends, or is too slow."""
    watchdog = threading.Timer(limit_s, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
        watchdog.join()
    if not line:
        _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
        pytest.fail(f"no line on stdout in {limit_s} s, status {process.returncode}:\n{stderr}")
    return line


def wait_for(look: Callable[[], Any], limit_s: float = COMMAND_LIMIT_S) -> Any:
    """Return what ``look`` gives once it gives something; each look is a process, so it needs no pause."""
    deadline = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it never came"
    return found
