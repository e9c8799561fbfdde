"""Processes append to one stream and are killed, stopped, or run out of room: what was confirmed is there once."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import contextmanager

import psutil
import pytest
from wait_kit import wait_until

from timbr_wamp.errors import StorageFailed
from timbr_wamp.streams import stream

LIMIT_S = 60.0
#: Appends "<name> <number>" and says the position of each that is confirmed.
APPENDER = """
import sys
from timbr_wamp.streams import stream
events = stream("events", sys.argv[1])
print("ready", flush=True)
for number in range(int(sys.argv[3])):
    message = f"{sys.argv[2]} {number}"
    print(events.append(message), message, flush=True)
print("done", flush=True)
events.close()
"""
FULL = """
import resource, sys
from timbr_wamp.errors import StorageFailed
from timbr_wamp.streams import stream
events = stream("events", sys.argv[1])
events.append("first")
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
kept = 1
try:
    while True:
        events.append("x" * 20_000)
        kept += 1
except StorageFailed:
    pass
assert sum(1 for entry in events) == kept
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert events.append("last") == kept + 1
events.close()
"""


class Appender:
    """A process that appends, and what it confirmed."""

    def __init__(self, url, name, count):
        command = [sys.executable, "-c", APPENDER, url, name, str(count)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.confirmed = []
        self.ready, self.done = threading.Event(), threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            if line == "ready\n":
                self.ready.set()
            elif line == "done\n":
                self.done.set()
            elif line.endswith("\n"):
                position, message = line.strip().split(" ", 1)
                self.confirmed.append((int(position), message))

    def end(self):
        self.process.kill()
        self.process.wait(LIMIT_S)
        self._reader.join(LIMIT_S)
        self.process.stdout.close()


@contextmanager
def appenders(url, count, each):
    """Run several; they are killed at the end of the block."""
    some = [Appender(url, f"p{number}", each) for number in range(count)]
    try:
        for one in some:
            assert one.ready.wait(LIMIT_S)
        yield some
    finally:
        for one in some:
            one.end()


def check(path, confirmed):
    """Fail unless the stream is whole, without a gap, and holds what was confirmed, each message once."""
    with stream("events", f"sqlite://{path}") as events:
        entries = [(entry.position, entry.message) for entry in events]
    assert [position for position, _ in entries] == list(range(1, len(entries) + 1))
    assert len({message for _, message in entries}) == len(entries)
    assert set(confirmed) <= set(entries)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    db.close()


def all_confirmed(some):
    return [one for appender in some for one in list(appender.confirmed)]


@pytest.mark.parametrize("seed", [1, 2])
def test_appenders_that_are_killed_at_once_lose_nothing_they_were_told_of(tmp_path, seed):
    path = tmp_path / "streams.db"
    with appenders(f"sqlite://{path}", 3, 100_000) as some:
        wanted = random.Random(seed).randrange(20, 200)
        wait_until(lambda: len(all_confirmed(some)) >= wanted, "enough is confirmed", LIMIT_S)
        for one in some:
            one.process.kill()
    check(path, all_confirmed(some))


def test_the_files_of_stopped_appenders_hold_what_was_confirmed(tmp_path):
    path = tmp_path / "streams.db"
    with appenders(f"sqlite://{path}", 3, 100_000) as some:
        for image in range(3):
            wait_until(lambda: len(all_confirmed(some)) >= 50 * (image + 1), "enough is confirmed", LIMIT_S)  # noqa: B023
            for one in some:
                one.process.send_signal(signal.SIGSTOP)
            for one in some:
                process = psutil.Process(one.process.pid)
                wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")  # noqa: B023
            confirmed = all_confirmed(some)
            copy = tmp_path / f"image{image}.db"
            for suffix in ("", "-wal", "-shm"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            for one in some:
                one.process.send_signal(signal.SIGCONT)
            check(copy, confirmed)


def test_many_processes_append_beside_a_long_read_and_nobody_hears_of_locks(tmp_path):
    path = tmp_path / "streams.db"
    url = f"sqlite://{path}"
    with stream("events", url) as events:
        events.append("before")
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM entry").fetchone() == (1,)
    with appenders(url, 8, 25) as some:
        for one in some:
            assert one.done.wait(LIMIT_S), one.process.poll()
        for one in some:
            assert one.process.wait(LIMIT_S) == 0
    assert reader.execute("SELECT count(*) FROM entry").fetchone() == (1,)
    reader.close()
    check(path, all_confirmed(some))
    assert len(all_confirmed(some)) == 200


def test_a_stream_whose_file_is_removed_refuses_what_would_be_lost(tmp_path):
    path = tmp_path / "streams.db"
    with stream("events", f"sqlite://{path}") as events:
        events.append(1)
        path.rename(tmp_path / "away")
        for call in (lambda: events.append(2), lambda: list(events)):
            with pytest.raises(StorageFailed, match="removed"):
                call()
        (tmp_path / "away").rename(path)
        assert events.append(2) == 2


def test_a_stream_on_a_full_disk_refuses_and_goes_on_when_there_is_room(tmp_path):
    command = [sys.executable, "-c", FULL, f"sqlite://{tmp_path}/streams.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
