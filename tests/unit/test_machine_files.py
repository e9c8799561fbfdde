"""The machines of a kernel by their runtime files, each read once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from timbr_wamp import runtime
from timbr_wamp.components import machine_files
from timbr_wamp.components.machine_files import SETTLED_S, MachineFiles
from timbr_wamp.runtime import MachineFile


class Clock:
    """UTC nanoseconds, so far ahead of all files that the folder counts as settled."""

    def __init__(self) -> None:
        self.ahead_s = 10 * SETTLED_S

    def __call__(self) -> int:
        return time.time_ns() + int(self.ahead_s * 1e9)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    found: list[str] = []
    original = runtime.read_file

    def noted(path: Path, kind: Any) -> Any:
        found.append(path.name)
        return original(path, kind)

    monkeypatch.setattr(runtime, "read_file", noted)
    return found


@pytest.fixture
def other_process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def write(
    folder: Path, kernel: str | None, name: str = "machine", *, pid: int | None = None, opened_at: float = 1.0
) -> Path:
    pid = pid or os.getpid()
    started = runtime.process_started(pid)
    assert started is not None
    file = MachineFile(
        pid=pid, process_started=started, name=name, run="r", pub=f"ipc://{folder}/{pid}.p",
        control=f"ipc://{folder}/{name}-{opened_at}.c", connection_file=kernel, opened_at=opened_at,
    )  # fmt: skip
    return runtime.write_file(folder / f"machine-{pid}-{name}-{opened_at}.json", file)


def test_the_files_of_other_kernels_are_read_once_however_often_one_looks(folder: Path, reads: list[str]) -> None:
    files = MachineFiles(folder, lambda file: file.connection_file == "mine", clock_ns=Clock())
    others = [write(folder, "other", f"m{number}") for number in range(5)]
    write(folder, "mine")
    assert list(files.machines()) == ["machine"]
    assert len(reads) == 6
    for _ in range(3):
        assert list(files.machines()) == ["machine"]
    assert len(reads) == 6
    write(folder, "mine", "m0")
    others[1].unlink()
    assert sorted(files.machines()) == ["m0", "machine"]
    assert len(reads) == 7


def test_a_folder_that_did_not_change_is_not_even_listed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    files = MachineFiles(folder, lambda file: True, clock_ns=clock)
    assert files.changed()
    files.machines()
    assert not files.changed()
    path = write(folder, "mine")
    assert files.changed()
    assert files.machines()
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail("it was listed"))
    assert not files.changed()
    path.unlink()
    assert files.changed()


def test_a_fresh_change_is_not_trusted_to_be_the_last_one(folder: Path) -> None:
    clock = Clock()
    files = MachineFiles(folder, lambda file: True, clock_ns=clock)
    write(folder, "mine")
    files.machines()
    clock.ahead_s = SETTLED_S / 2
    assert files.changed()  # another file may have come in the same step of the file system's clock
    clock.ahead_s = SETTLED_S * 2
    assert not files.changed()


def test_a_file_that_was_replaced_is_read_again(folder: Path) -> None:
    files = MachineFiles(folder, lambda file: file.connection_file == "mine", clock_ns=Clock())
    path = write(folder, "other")
    assert files.machines() == {}
    content = runtime.read_file(path, MachineFile)
    assert content is not None
    content.connection_file = "mine"
    runtime.write_file(path, content)
    assert list(files.machines()) == ["machine"]


def test_of_several_machines_with_one_name_it_is_the_newest(folder: Path) -> None:
    files = MachineFiles(folder, lambda file: True)
    for opened_at in (2.0, 3.0, 1.0):
        write(folder, "mine", opened_at=opened_at)
    assert files.machines()["machine"].opened_at == 3.0


def test_a_machine_whose_process_was_killed_is_noticed_without_any_change_of_the_folder(
    folder: Path, other_process: subprocess.Popen[bytes]
) -> None:
    files = MachineFiles(folder, lambda file: True, clock_ns=Clock())
    path = write(folder, "mine", pid=other_process.pid)
    socket = folder / f"{other_process.pid}.p"
    socket.touch()
    assert list(files.machines()) == ["machine"]
    assert not files.changed()
    other_process.kill()
    other_process.wait()
    assert files.changed()
    assert files.machines() == {}
    assert not path.exists()
    assert not socket.exists()


def test_what_a_dead_process_left_is_removed_and_what_is_no_machine_stays(
    folder: Path, other_process: subprocess.Popen[bytes]
) -> None:
    left = write(folder, "other", pid=other_process.pid)
    (folder / "machine-1.json").write_text("{")
    other_process.kill()
    other_process.wait()
    assert machine_files.of_kernel(folder, folder / "kernel.json").machines() == {}
    assert not left.exists()
    assert (folder / "machine-1.json").exists()


def test_a_folder_that_is_not_there_has_no_machines(tmp_path: Path) -> None:
    files = MachineFiles(tmp_path / "gone", lambda file: True)
    assert files.machines() == {}
    assert not files.changed()
