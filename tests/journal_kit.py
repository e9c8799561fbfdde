"""A machine with a journal in a process that is killed, and what must hold of its file afterwards."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

import psutil
from wait_kit import wait_until

from timbr_wamp.names import new_oid
from timbr_wamp.store import SqliteJournal

#: Seconds that a process may take for anything.
LIMIT_S = 60.0

#: Puts what it reads, with several threads at once, and says what is confirmed.
PROGRAM = """
import json, sys, threading
from concurrent.futures import ThreadPoolExecutor
from timbr_wamp.machine import Machine

machine = Machine(2, journal=sys.argv[1], bufsize=64)
machine[0] = lambda number: number * 2
machine[1] = lambda doubled, number: 1 // (number % 7)
machine.start()
said = threading.Lock()

def put(line):
    oid, number = json.loads(line)
    machine.put(number, block=True, timeout=30, oid=oid)
    with said:
        print(oid, flush=True)

print("ready", flush=True)
with ThreadPoolExecutor(8) as pool:
    list(pool.map(put, sys.stdin))
assert machine.wait(60)
machine.close()
print("done", flush=True)
"""


class Child:
    """The process, fed and listened to."""

    def __init__(self, path: Path, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {})},
        )  # fmt: skip
        self.lines: SimpleQueue[str] = SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        assert self.lines.get(timeout=LIMIT_S) == "ready"

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.put(line.strip())

    def send(self, messages: Sequence[tuple[str, int]], *, end: bool) -> None:
        """Give it messages in a thread of its own, as it may be killed meanwhile; with ``end`` no more follow."""

        def feed() -> None:
            assert self._process.stdin is not None
            try:
                for message in messages:
                    self._process.stdin.write(json.dumps(message) + "\n")
                self._process.stdin.flush()
                if end:
                    self._process.stdin.close()
            except (BrokenPipeError, ValueError):
                pass  # killed

        self._feeder = threading.Thread(target=feed)
        self._feeder.start()

    def freeze(self) -> None:
        """Stop it where it is, until `thaw`."""
        self._process.send_signal(signal.SIGSTOP)
        process = psutil.Process(self._process.pid)
        wait_until(lambda: process.status() == psutil.STATUS_STOPPED, "it is stopped")

    def thaw(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self.leave()

    def leave(self) -> None:
        """Wait for its end."""
        self._process.wait(LIMIT_S)
        self._feeder.join(LIMIT_S)
        self._reader.join(LIMIT_S)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def run_and_kill(path: Path, count: int, kills: int, seed: int) -> list[str]:
    """Put ``count`` numbered messages into a machine that is killed ``kills`` times; return their oids.

    What was not confirmed is put again with the same oid.
    """
    chance = random.Random(seed)
    messages = [(new_oid(), number) for number in range(count)]
    confirmed: set[str] = set()
    for round_ in range(kills + 1):
        child = Child(path)
        rest = [message for message in messages if message[0] not in confirmed]
        last = round_ == kills
        child.send(rest, end=last)
        wanted = len(rest) if last else min(chance.randrange(1, 2 + 2 * count // (kills + 1)), max(len(rest) - 1, 0))
        got = 0
        while got < wanted:
            line = child.lines.get(timeout=LIMIT_S)
            confirmed.add(line)
            got += 1
        if last:
            assert child.lines.get(timeout=LIMIT_S) == "done"
            child.leave()
        else:
            child.kill()
            while True:  # confirmed before it was killed
                try:
                    line = child.lines.get_nowait()
                except Empty:
                    break
                if line != "done":
                    confirmed.add(line)
    return [oid for oid, _ in messages]


def check(path: Path, oids: Sequence[str]) -> None:
    """Fail unless each message is recorded exactly once, without a gap, and the file is whole."""
    journal = SqliteJournal(path)
    try:
        assert journal.check() == []
        assert journal.pending(10) == []
        rows = journal.records(0, 10_000_000)
    finally:
        journal.close()
    assert [row[0] for row in rows] == list(range(1, len(oids) + 1))
    twice = [key for key, n in Counter((row[1], json.loads(row[3])["attempt"]) for row in rows).items() if n > 1]
    assert not twice
    assert {row[1] for row in rows} == set(oids)
    for _, _, text, meta, _ in rows:
        number, doubled, *_ = json.loads(text)
        assert doubled == number * 2
        assert json.loads(meta)["errored"] == (number % 7 == 0)


def check_image(path: Path, confirmed: Sequence[str]) -> None:
    """Fail unless the file is whole, and each confirmed message either waits in it or has one record."""
    journal = SqliteJournal(path)
    try:
        assert journal.check() == []
        oids = [row[1] for row in journal.records(0, 10_000_000)] + [entry[0] for entry in journal.pending(10_000_000)]
    finally:
        journal.close()
    held = Counter(oids)
    assert max(held.values(), default=1) == 1
    assert set(confirmed) <= held.keys()
