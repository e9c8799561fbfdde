"""Fixtures of the unit tests: machines without a wire, gates, observers."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from machine_kit import Gate, Machines, ManualClock, Recorder, must_end
from wait_kit import wait_until
from wire_kit import Peer, file_of

from timbr_wamp.machine import Machine


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Make machines; each is closed and its counts are checked afterwards."""
    made = Machines()
    yield made
    made.close()


@pytest.fixture
def gate(machines: Machines) -> Gate:
    """A slot function that blocks until the test opens it."""
    return machines.gate()


@pytest.fixture
def new_gate(machines: Machines) -> Callable[[], Gate]:
    """Make several gates."""
    return machines.gate


@pytest.fixture
def records() -> Recorder:
    """The sink and hook of `machine`."""
    return Recorder()


@pytest.fixture
def machine(machines: Machines, records: Recorder) -> Machine:
    """A machine of eight slots with `records` as sink and hook."""
    return machines(sinks=[records], hooks=[records])


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the test moves."""
    return ManualClock()


@pytest.fixture
def runtime_dir(monkeypatch) -> Iterator[Path]:
    """A runtime folder of this test's own."""
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(folder))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def served(machines: Machines, runtime_dir: Path) -> Machine:
    """A machine with its local wire."""
    return machines(bufsize=100, serve=True)


@pytest.fixture
def connect(runtime_dir: Path) -> Iterator[Callable[[Machine], Peer]]:
    """Connect peers that are closed at the end."""
    peers: list[Peer] = []

    def connect(machine: Machine) -> Peer:
        peers.append(Peer(file_of(machine, runtime_dir)))
        return peers[-1]

    yield connect
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(served: Machine, connect: Callable[[Machine], Peer]) -> Peer:
    return connect(served)


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> Iterator[None]:
    """Fail a test that leaves threads of a machine or that hold up the exit, or child processes.

    In place of the whole suite's own fixture, which looks at every process of the computer: too slow
    for hundreds of small tests.
    """
    threads_before, children_before = set(threading.enumerate()), _children()
    yield

    def left() -> tuple[list[str], set[int]]:
        threads = [t.name for t in threading.enumerate() if t not in threads_before and must_end(t)]
        return threads, _children() - children_before

    wait_until(lambda: not any(left()), f"left behind: {left()}")


def _children() -> set[int]:
    files = Path("/proc/self/task").glob("*/children")
    try:
        return {int(pid) for file in files for pid in file.read_text().split()}
    except OSError:  # a thread that ended meanwhile; there are none where /proc is not
        return _children()
