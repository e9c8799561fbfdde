"""A disk that is full: put raises at once, sources wait, nothing is lost, and it goes on by itself when there is room.

The limit on the size of files stands for the disk: no rights are needed for it, and it can be lifted.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from timbr_wamp.store import SqliteJournal

HEAD = """
import os, resource, signal, sys, time
from timbr_wamp.errors import StorageFailed
from timbr_wamp.machine import Machine
from timbr_wamp.machine.protocols import EndOfSource

path, lasting = sys.argv[1:]

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

def wait_until(look):
    deadline = time.monotonic() + 30
    while not look():
        assert time.monotonic() < deadline, machine.status
        time.sleep(0.01)

def adds_up():
    s = machine.status
    return s.put == s.processed + s.errored + s.dropped + s.queue_size + s.in_flight
"""

PUTS = """
machine = Machine(1, journal=path, bufsize=100)
machine.start()
machine.put("first")
assert machine.wait(20)
limit(3_000_000)
kept = 1
try:
    while True:
        machine.put("x" * 50_000, block=True, timeout=20)
        kept += 1
except StorageFailed as error:
    reason = str(error)
for call in (lambda: machine.put("y" * 200_000), lambda: machine.put_many(["y" * 200_000] * 3)):
    started = time.monotonic()
    try:
        call()
        raise SystemExit("it was kept")
    except StorageFailed:
        assert time.monotonic() - started < 1.0
assert path in reason, reason
assert adds_up()
assert machine.recent(5)[0].input is not None, "reading goes on"
assert machine.recorder.after(machine.run, 0, 3, 10**9)[2]
limit(resource.RLIM_INFINITY)
machine.put("last")
wait_until(lambda: machine.status.processed == kept + 1)  # a commit may have failed just now: it is tried again
assert machine.status.state == "running", machine.status
assert adds_up()
assert machine.status.processed == kept + 1, (machine.status, kept)
machine.close()
"""

SOURCE = """
class Numbers:
    identity, at = "numbers", 0

    def next_batch(self):
        if self.at >= 400:
            raise EndOfSource
        self.at += 5
        return [{"number": number, "text": "x" * 5000} for number in range(self.at - 5, self.at)]

    def position(self):
        return self.at

    def resume(self, position):
        self.at = position

    def close(self):
        pass

def generator():
    for number in range(400):
        yield {"number": number, "text": "x" * 5000}

machine = Machine(2, journal=path, bufsize=20)
machine.source = {"position": Numbers, "generator": generator, "list": lambda: list(generator())}[KIND]()
if lasting == "full":
    limit(1_000_000)
machine.start()
if lasting == "full":
    wait_until(lambda: machine.status.state == "paused")
    assert "reading or writing failed" in machine.status.reason or "full" in machine.status.reason, machine.status
    assert machine.status.source.state in ("waiting", "reading"), machine.status
    assert adds_up()
    if KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    limit(resource.RLIM_INFINITY)
    wait_until(lambda: machine.status.state == "running")
assert machine.wait(30)
assert (machine.status.processed, machine.status.source.state) == (400, "exhausted"), machine.status
assert adds_up()
machine.close()
"""


def run(text, path, lasting="full", status=0):
    done = subprocess.run(
        [sys.executable, "-c", HEAD + text, str(path), lasting], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == status, done.stderr[-3000:]


def numbers(path):
    """Return the numbers of the recorded messages; the journal is whole, and no message waits."""
    journal = SqliteJournal(path)
    try:
        assert journal.check() == []
        assert journal.pending(1) == []
        return [json.loads(row[2])[0]["number"] for row in journal.records(0, 10_000)]
    finally:
        journal.close()


def test_a_put_raises_at_once_and_the_machine_goes_on_when_there_is_room(tmp_path):
    run(PUTS, tmp_path / "j")


@pytest.mark.parametrize("kind", ["position", "generator", "list"])
def test_a_source_waits_and_loses_nothing(tmp_path, kind):
    run(f"KIND, KILLED = {kind!r}, False\n{SOURCE}", tmp_path / "j")
    assert numbers(tmp_path / "j") == list(range(400))


def test_a_process_that_is_killed_while_its_disk_is_full_goes_on_with_what_was_not_kept(tmp_path):
    text = f"KIND, KILLED = 'position', True\n{SOURCE}"
    run(text, tmp_path / "j", status=-9)
    run(text.replace("== (400", "== (machine.status.put"), tmp_path / "j", "empty")
    assert numbers(tmp_path / "j") == list(range(400))
