"""Chaos: a whole node, two flows of numbered messages, and victims that are killed or frozen, in an order by seed.

What must hold at the end: each message was processed once, and each reader has each ``(run, seq)`` once and
in order, or an explicit `Gap` that names it.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
from wait_kit import wait_until

import timbr_wamp
from tests.integration.test_end_to_end import prepared, reader, up
from timbr_wamp import Gap, Record, runtime
from timbr_wamp.client import Client, RemoteMachine
from timbr_wamp.errors import TimbrError
from timbr_wamp.names import new_oid
from timbr_wamp.processes import Process
from timbr_wamp.settings import ENV_PREFIX, Settings

VICTIMS = ("router", "bridge", "host", "client")
WAYS = ("killed", "frozen")
#: Longest time for everything to work again after one of them was killed or thawed, on a busy computer.
RECOVERY_S = 60.0
CHUNK = 50

#: A reader in a process of its own: it notes each number before it asks for the next, and continues after the last.
CLIENT = """
import os, sys, time
import timbr_wamp
from timbr_wamp import Gap
from timbr_wamp.errors import TimbrError

url, token, kernel_id, path, last = sys.argv[1:]


def noted():
    with open(path, "a+b") as file:
        file.seek(0)
        whole = file.read().rpartition(b"\\n")[0]
        file.truncate(len(whole) + 1 if whole else 0)
    return (whole.split(b"\\n")[-1].split()[0].decode(), int(whole.split()[-2])) if whole else (None, 0)


def read():
    run, after = noted()
    with open(path, "ab", buffering=0) as file, timbr_wamp.connect(url, token) as client:
        for item in client.kernel(kernel_id).machine().records(run=run, after_seq=after):
            first, end = (item.first, item.last) if isinstance(item, Gap) else (item.seq, item.seq)
            file.write(f"{item.run} {first} {end} {'gap' if isinstance(item, Gap) else 'record'}\\n".encode())
            if end >= int(last):
                return


while True:
    try:
        read()
        break
    except TimbrError:  # it began while there was no router or bridge
        time.sleep(0.1)
"""

SOURCE = """
def numbers():
    import os, time
    for number in range(1, {count} + 1):
        if not os.path.exists({hurry!r}):
            time.sleep({pause_s})
        yield ["source", number]
"""


def plan(seed: int, rounds: int) -> list[tuple[str, str]]:
    """Return whom to kill and whom to freeze: each pair equally often; the rest costs no restart of router or host."""
    pairs = list(itertools.product(VICTIMS, WAYS))
    gentle = [pair for pair in pairs if pair not in (("router", "killed"), ("host", "killed"))]
    chance = random.Random(seed)
    chosen = pairs * (rounds // len(pairs)) + chance.sample(gentle, rounds % len(pairs))
    chance.shuffle(chosen)
    return chosen


class Chaos:
    """A node with a kernel and its machine, two flows, and two readers: one here, one in a process that is a victim.

    Args:
        count: messages of each flow.
        pause_s: of the source between two messages, until the last round.
    """

    def __init__(
        self, settings: Settings, client: Client, services: dict[str, Any], count: int, pause_s: float
    ) -> None:
        self._settings, self._services, self._count = settings, services, count
        #: Both end the pauses between messages: of the source in the kernel, and of who puts here.
        self._hurry, self._over = settings.data_dir / "hurry", threading.Event()
        self._notes = settings.data_dir / "client.txt"
        self.machine: RemoteMachine = prepared(client)
        self._kernel_id = client.kernel().id
        self._reader = self._start_client()
        self._source = SOURCE.format(count=count, hurry=str(self._hurry), pause_s=pause_s)

    def run(self, rounds: Iterable[tuple[str, str]], chance: random.Random) -> list[Any]:
        """Let messages flow, do harm, and return what the reader of this process got."""
        with reader(self.machine, 2 * self._count, timeout_s=2 * RECOVERY_S) as seen:
            self.machine.set_source(self._source)
            self.machine.start()
            putter = threading.Thread(target=self._put_all, daemon=True)
            putter.start()
            for victim, way in rounds:
                self._wait_for_more(seen)
                self.harm(victim, way, chance)
            self._wait_for_more(seen)
            self._hurry.touch()
            self._over.set()
            putter.join(2 * RECOVERY_S)
            assert not putter.is_alive(), "not all messages could be put"
        return seen

    def harm(self, victim: str, way: str, chance: random.Random) -> None:
        """Kill a victim, or freeze it for a moment."""
        processes = self._processes(victim)
        if way == "killed":
            for process in processes:
                process.signal(signal.SIGKILL)
            assert all(process.wait(10.0) for process in processes)
            if victim == "client":
                self._reader.wait(10)
                self._reader = self._start_client()
            return
        for process in processes:
            process.signal(signal.SIGSTOP)
        time.sleep(chance.uniform(0.2, 1.5))  # how long it is frozen; nothing is concluded from it
        for process in processes:
            process.signal(signal.SIGCONT)

    def client_ended(self) -> list[tuple[str, int, int, str]]:
        """Wait until the other reader has all; return what it noted: run, first and last number, kind."""
        assert self._reader.wait(2 * RECOVERY_S) == 0
        return [
            (run, int(first), int(last), kind)
            for run, first, last, kind in (line.split() for line in self._notes.read_text().splitlines())
        ]

    def close(self) -> None:
        """End the other reader."""
        self._reader.kill()
        self._reader.wait(10)

    # --- inside ------------------------------------------------------------------------------

    def _start_client(self) -> subprocess.Popen[bytes]:
        arguments = [self._services["url"], self._services["token"], self._kernel_id, str(self._notes)]
        return subprocess.Popen([sys.executable, "-c", CLIENT, *arguments, str(2 * self._count)])

    def _processes(self, victim: str) -> list[Process]:
        """Return the victim's processes; wait for it when it is just being restarted."""
        found: list[Process] = []
        wait_until(lambda: found.extend(self._find(victim)) or found, f"the {victim} runs", RECOVERY_S)
        return found

    def _find(self, victim: str) -> Iterator[Process]:
        folder = self._settings.runtime_dir
        node = runtime.read_file(runtime.node_file(folder), runtime.NodeFile)
        file: runtime.ProcessFile | None = None
        if victim == "client":
            yield Process(self._reader.pid, runtime.process_started(self._reader.pid) or 0.0)
        elif victim == "router":
            file = node
        elif victim == "host":
            file = runtime.local_host(folder, node.url) if node is not None else None
        else:
            file = runtime.read_file(runtime.bridge_file(folder, self._kernel_id), runtime.BridgeFile)
        if (process := Process.of(file)) is not None:
            yield process
            if victim == "router":
                for child in psutil.Process(process.pid).children(recursive=True):
                    yield Process(child.pid, runtime.process_started(child.pid) or 0.0)

    def _wait_for_more(self, seen: list[Any]) -> None:
        before = _last(seen)
        wait_until(lambda: _last(seen) > before or _last(seen) >= 2 * self._count, "records flow again", RECOVERY_S)

    def _put_all(self) -> None:
        for first in range(1, self._count + 1, CHUNK):
            numbers = range(first, min(first + CHUNK, self._count + 1))
            messages, oids = [["put", number] for number in numbers], [new_oid() for _ in numbers]
            self._until_accepted(lambda m=messages, o=oids: self.machine.put_many(m, o, timeout_s=5.0))
            self._over.wait(0.2)

    @staticmethod
    def _until_accepted(put: Callable[[], Any]) -> None:
        """Put until all are accepted. The oids are those of before, so none is put twice."""
        deadline = time.monotonic() + 2 * RECOVERY_S
        while True:
            try:
                if not put().refused:
                    return
            except TimbrError:
                pass
            assert time.monotonic() < deadline, "messages are not accepted"


def _last(seen: list[Any]) -> int:
    if not seen:
        return 0
    return int(seen[-1].last if isinstance(seen[-1], Gap) else seen[-1].seq)


@contextmanager
def chaos(settings: Settings, count: int, pause_s: float) -> Iterator[Chaos]:
    """Start a node and the flows; end all, and check that no process is left."""
    with up(settings) as services, timbr_wamp.connect(services["url"], services["token"]) as client:
        made = Chaos(settings, client, services, count, pause_s)
        try:
            yield made
        finally:
            made.close()
    assert processes_of(settings) == []


def processes_of(settings: Settings) -> list[str]:
    """Return the commands of all processes that use the runtime folder."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(f"{ENV_PREFIX}RUNTIME_DIR") == str(settings.runtime_dir)
            if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def check_all_is_there(chaos: Chaos, seen: list[Any], count: int) -> None:
    """Check the laws: each number once and in order or named as lost, each message once, and counts that add up."""
    status = chaos.machine.status
    assert status.put == 2 * count
    assert status.put == status.processed + status.errored + status.dropped + status.queue_size + status.in_flight
    assert status.processed == status.last_seq == 2 * count
    runs = {item.run for item in seen}
    assert runs == {status.run}
    spans = [(item.first, item.last) if isinstance(item, Gap) else (item.seq, item.seq) for item in seen]
    check_consecutive(spans, 2 * count)
    lost = sum(item.last - item.first + 1 for item in seen if isinstance(item, Gap))
    inputs = [tuple(record.input) for record in seen if isinstance(record, Record)]
    assert len(set(inputs)) == len(inputs) == 2 * count - lost
    assert set(inputs) <= {(flow, number) for flow in ("source", "put") for number in range(1, count + 1)}
    theirs = chaos.client_ended()
    assert {run for run, *_ in theirs} == {status.run}
    check_consecutive([(first, last) for _, first, last, _ in theirs], 2 * count)


def check_consecutive(spans: list[tuple[int, int]], last: int) -> None:
    """Check that the spans cover 1 to ``last``, each number once and in order."""
    expected = 1
    for first, end in spans:
        assert first == expected, f"{first} came where {expected} was due"
        expected = end + 1
    assert expected == last + 1


__all__ = ["Chaos", "chaos", "check_all_is_there", "plan"]
