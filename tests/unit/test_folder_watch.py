"""A folder's watch: called soon after each change, and at long intervals otherwise."""

from __future__ import annotations

import asyncio
import fcntl
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from timbr_wamp.components import folder_watch
from timbr_wamp.components.folder_watch import FolderWatch

LIMIT_S = 10.0
signalled_here = pytest.mark.skipif(not hasattr(fcntl, "F_NOTIFY"), reason="no F_NOTIFY on this system")


class Looks:
    """Counts the calls."""

    def __init__(self) -> None:
        self.count = 0
        self._looked = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._looked.set()

    async def next(self) -> None:
        """Wait for a call after now."""
        self._looked.clear()
        await asyncio.wait_for(self._looked.wait(), LIMIT_S)


def _create(folder: Path) -> None:
    (folder / "new").touch()


def _replace(folder: Path) -> None:
    os.replace(folder / "old", folder / "renamed")


def _remove(folder: Path) -> None:
    (folder / "old").unlink()


def _by_another_process(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", str(folder / "theirs")], check=True)


@signalled_here
@pytest.mark.parametrize("change", [_create, _replace, _remove, _by_another_process])
def test_each_change_is_heard_without_looking_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(folder_watch, "LONG_INTERVAL_S", 1000.0)
    (tmp_path / "old").touch()

    async def work() -> None:
        looks = Looks()
        watch = FolderWatch(tmp_path, looks)
        try:
            assert watch.signalled
            await looks.next()  # the first look, in case that something changed before
            change(tmp_path)
            await looks.next()
        finally:
            watch.close()

    asyncio.run(work())


@signalled_here
def test_a_closed_watch_calls_nobody_and_ignores_later_changes(tmp_path: Path) -> None:
    async def work() -> None:
        looks = Looks()
        watch = FolderWatch(tmp_path, looks)
        await looks.next()
        watch.close()
        watch.close()
        other = Looks()
        _create(tmp_path)
        again = FolderWatch(tmp_path, other)
        await other.next()
        again.close()
        assert looks.count == 1

    asyncio.run(work())


def test_where_changes_are_not_signalled_it_looks_at_intervals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_watch, "POLL_INTERVAL_S", 0.01)
    problems: list[BaseException] = []

    async def work() -> None:
        looks = Looks()
        watch = FolderWatch(tmp_path, looks)
        assert not watch.signalled
        for _ in range(3):
            await looks.next()
        watch.close()

    def run() -> None:
        try:
            asyncio.run(work())
        except BaseException as error:  # shown in the test's own thread
            problems.append(error)

    thread = threading.Thread(target=run)  # signals are for the main thread alone
    thread.start()
    thread.join(LIMIT_S)
    assert problems == []


def test_a_folder_that_is_not_there_is_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_watch, "POLL_INTERVAL_S", 0.01)

    async def work() -> None:
        looks = Looks()
        watch = FolderWatch(tmp_path / "gone", looks)
        assert not watch.signalled
        await looks.next()
        await looks.next()
        watch.close()

    asyncio.run(work())
