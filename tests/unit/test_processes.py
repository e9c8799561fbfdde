"""The processes executor: what runs where, children that die or hang, and that none outlives its parent."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from machine_kit import LIMIT_S, Machines, Recorder
from wait_kit import wait_until

from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine import Machine
from timbr_wamp.machine.running.executors.processes import ProcessesExecutor

#: Seconds within which a child process starts, also on a busy computer.
START_S = 30.0


@pytest.fixture
def machine(machines: Machines, records: Recorder) -> Machine:
    """A machine that runs its slots in one child process, with `records` as sink and hook."""
    return machines(sinks=[records], hooks=[records], executor=ProcessesExecutor(workers=1))


@pytest.fixture(autouse=True)
def children() -> Iterator[None]:
    """No test leaves a child process behind."""
    before = set(psutil.Process().children())
    yield
    wait_until(lambda: set(psutil.Process().children()) <= before, "the child processes end")


def inputs_of(records: Recorder, count: int) -> list[object]:
    return [record.input for record in records.wait_for(count, START_S)]


# --- what runs where ---


def test_functions_run_in_children_and_records_are_in_order(machines, records):
    m = machines(sinks=[records], executor=ProcessesExecutor(workers=2))
    m[0] = lambda message: os.getpid()
    m[1] = lambda pid, message: message * 2
    for n in range(200):
        m.put(n)
    m.start()
    found = records.wait_for(200, START_S)
    assert [record.input for record in found] == list(range(200))
    assert [record.values[1] for record in found] == [2 * n for n in range(200)]
    pids = {record.values[0] for record in found}
    assert len(pids) == 2
    assert os.getpid() not in pids


def test_objects_and_async_slots_and_what_cannot_be_sent_stay_in_this_process(machine, records):
    class Counts:
        def __init__(self) -> None:
            self.count = 0

        def step(self, value: int) -> int:
            self.count += 1
            return os.getpid()

    async def awaited(value: int) -> int:
        return os.getpid()

    counts, seen = Counts(), []
    machine[0] = lambda message: os.getpid()
    machine[1] = counts
    machine[2] = awaited
    machine[3] = seen.append
    machine[4] = lambda f3, f2, f1, f0: os.getpid()
    machine.put("m")
    machine.put("n")
    machine.start()
    own = os.getpid()
    for record in records.wait_for(2, START_S):
        assert [pid == own for pid in record.values[:3]] == [False, True, True]
        assert record.values[4] != own
    assert (counts.count, seen) == (2, [own, own])


def test_hooks_around_slots_run_in_this_process(machine, records):
    seen: list[tuple[object, ...]] = []
    machine.hook("post_slot", lambda oid, slot, value, error: seen.append((os.getpid(), value, type(error))))
    machine.hook("post_message", lambda oid, values, failures: seen.append((os.getpid(), values[-1])))
    machine[0] = lambda message: 1 // message
    machine.resize(1)
    machine.put(1)
    machine.put(0)
    machine.start()
    records.wait_for(2, START_S)
    assert seen[:2] == [(os.getpid(), 1, type(None)), (os.getpid(), 1)]
    assert seen[2] == (os.getpid(), None, ZeroDivisionError)


def test_a_slot_change_is_seen_by_the_next_message(machine, records):
    machine[0] = lambda message: "old"
    machine.put(1)
    machine.start()
    assert records.wait_for(1, START_S)[0].values[0] == "old"
    machine[0] = lambda message: "new"
    machine.put(2)
    assert records.wait_for(2)[1].values[0] == "new"


def test_a_machine_called_directly_runs_its_slots_in_children(machine):
    machine[0] = lambda message: os.getpid()
    assert machine("m").values[0] != os.getpid()


def test_what_slots_print_goes_to_stderr(machine, records, capfd):
    machine[0] = lambda message: print("printed", message)
    machine.put("m")
    machine.start()
    records.wait_for(1, START_S)
    out, err = capfd.readouterr()
    assert "printed m" in err
    assert out == ""


@pytest.mark.parametrize("workers", [0, -1, True, 1.5, 1000])
def test_an_invalid_number_of_children_is_refused(workers):
    with pytest.raises(InvalidArgument):
        ProcessesExecutor(workers=workers)


def test_a_function_of_a_reloaded_module_runs_as_it_is_now(machine, records, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "edited_module.py"
    file.write_text("def slot(message):\n    return 'old'\n")
    module = importlib.import_module("edited_module")
    machine[0] = module.slot
    machine.put(1)
    machine.start()
    assert records.wait_for(1, START_S)[0].values[0] == "old"
    file.write_text("def slot(message):\n    return 'edited'\n")
    machine[0] = importlib.reload(module).slot
    machine.put(2)
    assert records.wait_for(2, START_S)[1].values[0] == "edited"
    del sys.modules["edited_module"]


# --- children that die or hang ---


def test_a_message_that_ends_its_child_is_recorded_and_no_other_is_lost(machine, records):
    def slot(message: int) -> int:
        if message == 3:
            os._exit(7)
        return message * 2

    machine[0] = slot
    machine[1] = lambda: "apart"
    for n in range(20):
        machine.put(n)
    machine.start()
    found = records.wait_for(20, START_S)
    assert [record.input for record in found] == list(range(20))
    assert [record.values[0] for record in found if record.input != 3] == [2 * n for n in range(20) if n != 3]
    died = found[3].values[0]["_exception"]
    assert (died["exc_class"], found[3].values[1]) == ("WorkerDied", "apart")
    assert died["exc_value"] == "f0: the child process exited with status 7 while it ran"
    assert (machine.status.processed, machine.status.errored) == (19, 1)


def forks(value):
    """Fork; both processes come back. What the parent returns says whose answer it is."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        return ["parent", value]
    return ["child", value]


def test_a_slot_whose_fork_comes_back_answers_once(machine, records):
    machine[0] = forks
    for number in range(5):
        machine.put(number)
    machine.start()
    records.wait_for(5)
    assert [record.values[0] for record in machine.recent()] == [["parent", number] for number in range(5)]


def test_a_child_that_dies_once_costs_an_attempt_and_no_message(machine, records, tmp_path):
    died = tmp_path / "died"

    def slot(message: int) -> int:
        if message == 3 and not died.exists():
            died.touch()
            os.kill(os.getpid(), 9)
        return message

    machine[0] = slot
    for n in range(10):
        machine.put(n)
    machine.start()
    assert [record.values[0] for record in records.wait_for(10, START_S)] == list(range(10))
    assert machine.status.errored == 0


def test_a_slot_over_its_time_ends_its_child_and_the_next_message_gets_another(machine, records):
    def slot(message: int) -> int:
        while message == 0:
            pass  # no interpreter can be made to leave this
        return os.getpid()

    machine.set(0, slot, policy={"timeout_s": 0.2})
    machine.put(0)
    machine.put(1)
    machine.start()
    late, well = records.wait_for(2, START_S)
    assert late.values[0]["_exception"]["exc_class"] == "SlotTimeout"
    assert (well.values[0] == os.getpid(), well.errored) == (False, False)
    assert machine.status.policies.abandoned == 0


def test_closing_ends_a_child_that_runs_and_its_message_is_not_lost(machine, tmp_path):
    started = tmp_path / "started"

    def slot(message: int) -> int:
        started.touch()
        while True:
            pass

    machine[0] = slot
    machine.put(0)
    machine.start()
    wait_until(started.exists, "the slot runs", START_S)
    before = time.monotonic()
    machine.close(timeout=0.1)
    assert time.monotonic() - before < LIMIT_S
    wait_until(lambda: machine.status.in_flight == 0, "the message is back in the queue")
    assert machine.status.queue_size == 1


# --- scripts ---

SCRIPT = """
    import os, sys, time
    from timbr_wamp import Machine

    print("imported")

    class Point:
        def __init__(self, x):
            self.x = x

    class Refused(Exception):
        pass

    def shift(point):
        if point.x == 2:
            raise Refused(point.x)
        return Point(point.x + OFFSET)

    OFFSET = 10
    m = Machine(2, serve=False, executor="processes")
    m[0] = shift
    m[1] = lambda point: [point.x, os.getpid() != PARENT]
    PARENT = os.getpid()
"""


def script(tmp_path: Path, rest: str) -> Path:
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(SCRIPT) + textwrap.dedent(rest))
    return path


def test_a_script_needs_no_guard_and_its_classes_travel(tmp_path):
    path = script(
        tmp_path,
        """
        for n in range(4):
            m.put(Point(n))
        m.start()
        assert m.wait(60)
        print([r.values[1] if not r.errored else r.values[0]["_exception"]["exc_class"] for r in m.recent()])
        m.close()
        """,
    )
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "imported\n[[10, True], [11, True], 'Refused', [13, True]]\n", done.stderr


def test_children_end_when_their_parent_is_killed(tmp_path):
    path = script(
        tmp_path,
        """
        import re
        m[0] = lambda x: re.match("(a+)+b", "a" * 60)  # keeps the interpreter lock for ever
        m.put(1)
        m.put(2)
        m.start()
        sys.stdin.read()
        """,
    )
    parent = subprocess.Popen([sys.executable, path], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        process = psutil.Process(parent.pid)
        wait_until(lambda: len(process.children()) == 2, "the children run", START_S)
        children = process.children()
        wait_until(lambda: all(child.cpu_times().user > 1.0 for child in children), "the slots run", START_S)
    finally:
        parent.kill()
        parent.communicate()
    _, alive = psutil.wait_procs(children, timeout=LIMIT_S)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
