"""Machines without a kernel: reachable on the router; users start, watch, change and end them."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from command_home import COMMAND_LIMIT_S, Home, first_line, wait_for

import timbr_wamp
from timbr_wamp import Record
from timbr_wamp.client import Client
from timbr_wamp.errors import InvalidSource, NoMachine, NotAKernel

pytestmark = pytest.mark.integration

APP = """
from timbr_wamp import Machine

MACHINE = Machine()
MACHINE.set(0, lambda x: x * 2, name="double")


def thirty_one():
    machine = Machine(2)
    machine[0] = lambda x: 1 / (x % 31)
    machine.source = range(1, 63)
    return machine


def clean():
    machine = Machine(1)
    machine.source = iter("abc")
    return machine


def broken_source():
    def source():
        yield 1
        raise RuntimeError("the line is down")

    machine = Machine(1)
    machine.source = source
    return machine


def stops_at_its_end():
    machine = Machine(1)
    machine.set_source([1, 2, 3], on_exhausted="stop")
    return machine


def stops_early():
    machine = Machine(1, on_error="stop")
    machine[0] = lambda x: 1 / (3 - x)
    machine.set_source([1, 2, 3], on_exhausted="stop")
    return machine


A_NUMBER = 7
"""
#: Records of 9 KB each that the ring just holds, and that a reader gets slower than they are made.
JOB_MESSAGES = 6_000


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    """Replace the general check: processes of a home come and go below us; `Home` itself looks at what is left."""


@pytest.fixture
def offline_home() -> Iterator[Home]:
    """A home without a router."""
    made = Home(Path("/no/crossbar"))
    (made.folder / "app.py").write_text(APP)
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(crossbar: Path) -> Iterator[Home]:
    """A home where the machine ``app`` was there before its router was."""
    made = Home(crossbar)
    (made.folder / "app.py").write_text(APP)
    try:
        with headless(made, "app.py:MACHINE", "--name", "app") as process:
            assert "joins a router when one starts" in next(iter(process.stderr or ()))
            with made.up():
                wait_for(lambda: listed(made, "app"))
                yield made
        assert made.processes() == []
    finally:
        made.close()


@contextmanager
def headless(home: Home, *words: str, command: str = "machine") -> Iterator[subprocess.Popen[str]]:
    """Run a machine until the block ends, then end it by SIGTERM and check that it ends well."""
    process = home.popen(command, *words, "--json")
    try:
        printed = json.loads(first_line(process, COMMAND_LIMIT_S))
        assert printed["pid"] == process.pid
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
    assert process.returncode == 0, stderr


def listed(home: Home, name: str) -> dict[str, Any] | None:
    """Return what the router's list says of the process; None while it is not there with its machine."""
    found = [one for one in home.json("list") if one["name"] == name and one["state"] == "idle" and one["machines"]]
    return found[0] if found else None


def recorded(home: Home, name: str, message: str) -> list[Any]:
    """Put a message into a machine that nobody else feeds; return the values of its record."""
    count = home.json("status", name)["last_seq"] + 1
    home.run("put", name, message)
    lines = home.run("tail", name, "--all", "--json", "--count", str(count)).splitlines()
    return list(json.loads(lines[-1])["values"].values())


@contextmanager
def a_client(home: Home) -> Iterator[Client]:
    node = json.loads((home.folder / "run" / "node.json").read_text())
    client = timbr_wamp.connect(node["url"], token=node["token"])
    try:
        yield client
    finally:
        client.close()


# --- on the router ---------------------------------------------------------------------------


def test_a_headless_process_is_listed_like_a_kernel_and_says_what_it_is(home):
    info = listed(home, "app")
    assert info is not None
    assert info["headless"] is True
    assert info["kernel_id"].startswith("lab_")
    assert info["language_version"].count(".") == 2
    assert [(one["name"], one["state"]) for one in info["machines"]] == [("machine", "running")]


def test_it_gets_messages_is_changed_and_watched_from_the_terminal(home):
    assert home.json("status", "app")["state"] == "running"
    assert recorded(home, "app", "21")[:2] == [21, 42]
    home.run("set", "app", "double", "lambda x: x * 3")
    assert "x * 3" in home.run("slots", "app")
    home.run("set", "app", "double", "lambda x: x * 2")


def test_it_reads_like_any_machine_from_python(home):
    with a_client(home) as client:
        machine = client.kernel("app").machine()
        stream = machine.records(timeout_s=COMMAND_LIMIT_S)
        machine.put(4)
        assert list(next(stream))[1:3] == [4, 8]
        assert machine.slots[0].name == "double"
        with pytest.raises(InvalidSource):
            machine[1] = "no python at all"
        with pytest.raises(NoMachine):
            client.kernel("app").machine("another").status  # noqa: B018


def test_what_only_kernels_can_do_is_refused_with_a_sentence(home):
    with a_client(home) as client:
        kernel = client.kernel("app")
        for refused in (lambda: kernel.run("1 + 1"), kernel.interrupt, kernel.restart, lambda: kernel.complete("a")):
            with pytest.raises(NotAKernel, match="headless machine process"):
                refused()
        assert kernel.machine().status.running
    assert "headless machine process" in home.run("exec", "app", "1 + 1", status=1)


def test_a_bridge_that_is_killed_is_restarted_and_the_machine_is_not_affected(home):
    before = home.json("status", "app")
    kernel_id = listed(home, "app")["kernel_id"]
    old = json.loads((home.folder / "run" / f"bridge-{kernel_id}.json").read_text())["pid"]
    psutil.Process(old).kill()

    def back() -> dict[str, Any] | None:
        path = home.folder / "run" / f"bridge-{kernel_id}.json"
        new = json.loads(path.read_text())["pid"] if path.exists() else old
        return listed(home, "app") if new != old else None

    assert wait_for(back)["kernel_id"] == kernel_id
    after = home.json("status", "app")
    assert after["run"] == before["run"]
    assert after["uptime_s"] > before["uptime_s"]


def test_sigterm_ends_it_in_order_and_the_list_forgets_it(home):
    with headless(home, "app.py:MACHINE", "--name", "passing"):
        wait_for(lambda: listed(home, "passing"))
        home.run("put", "passing", "1")
    assert "passing" not in [one["name"] for one in home.json("list")]
    assert [path.name for path in (home.folder / "run").glob("headless-*.json")] == [
        f"headless-{listed(home, 'app')['kernel_id']}.json"
    ]


def test_an_administrator_can_end_it_remotely(home):
    with headless(home, "app.py:MACHINE", "--name", "remote") as process:
        wait_for(lambda: listed(home, "remote"))
        home.run("kernel", "stop", "remote")
        assert process.wait(COMMAND_LIMIT_S) == 0
    wait_for(lambda: "remote" not in [one["name"] for one in home.json("list")])


def test_one_that_is_killed_leaves_the_list(home):
    process = home.popen("machine", "app.py:MACHINE", "--name", "killed")
    wait_for(lambda: listed(home, "killed"))
    process.kill()
    process.communicate(timeout=COMMAND_LIMIT_S)
    wait_for(lambda: "killed" not in [one["name"] for one in home.json("list")])
    assert len(list((home.folder / "run").glob("headless-*.json"))) == 1


#: A machine whose source begins when there is a file.
JOB = """
import os, time
from timbr_wamp import Machine

def make():
    def source():
        while not os.path.exists({gate!r}):
            time.sleep(0.005)
        yield from range({count})

    machine = Machine(1)
    machine[0] = lambda number: "x" * 9_000
    machine.source = source
    return machine
"""


def test_a_process_that_is_done_ends_after_its_readers_have_all(home):
    """What a reader has not read is kept by the process alone, and is gone with it."""
    gate = home.folder / "gate"
    (home.folder / "job.py").write_text(JOB.format(gate=str(gate), count=JOB_MESSAGES))
    process = home.popen("machine", "job.py:make", "--until-done", "--name", "job", "--drain", "20")
    wait_for(lambda: listed(home, "job"))
    with a_client(home) as client:
        items = []
        with client.kernel("job").machine().records(timeout_s=COMMAND_LIMIT_S) as records:
            gate.touch()
            while sum(1 if isinstance(item, Record) else item.last - item.first + 1 for item in items) < JOB_MESSAGES:
                items.append(next(records))
    _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
    assert process.returncode == 0, stderr
    assert [item for item in items if not isinstance(item, Record)] == []
    assert [record.seq for record in items] == list(range(1, JOB_MESSAGES + 1))
    offline = wait_for(lambda: [one for one in home.json("list") if one["name"] == "job"] or [{"reason": None}])
    assert offline[0]["reason"] in ("it ended in order", None)  # a dead process leaves the list


# --- projects --------------------------------------------------------------------------------

PROJECT = '''
[machine]
stages = 3
bufsize = 64
on_error = {retries = 1}

[[slots]]
slot = 0
name = "double"
source = """
def double(x):
    return x * 2
"""
policy = "drop"

[[slots]]
slot = 2
function = "steps_of_ours:describe"
'''


@pytest.fixture
def project(home: Home) -> Iterator[Path]:
    """A project that runs as the process ``weather``."""
    folder = home.folder / "weather"
    folder.mkdir(exist_ok=True)
    (folder / "timbr.toml").write_text(PROJECT)
    (folder / "steps_of_ours.py").write_text('def describe(value):\n    return f"it is {value}"\n')
    with headless(home, "weather", command="run"):
        wait_for(lambda: listed(home, "weather"))
        yield folder


def test_a_project_runs_differs_when_changed_live_and_is_exported(home, project):
    assert home.run("diff", "weather", "--kernel", "weather") == ""
    assert recorded(home, "weather", "1") == [1, 2, 2, "it is 2"]

    home.run("set", "weather", "double", "lambda x: x * 5")
    home.run("set", "weather", "1", "lambda x: x + 1")
    changed = home.popen("diff", "weather", "--kernel", "weather")
    shown, _ = changed.communicate(timeout=COMMAND_LIMIT_S)
    assert changed.returncode == 1
    assert "+lambda x: x * 5" in shown
    assert "-    return x * 2" in shown
    assert "+++ live slot 1" in shown

    home.run("export", "--kernel", "weather", "-o", "again.toml")
    assert home.run("diff", "again.toml", "--kernel", "weather") == ""
    assert home.run("export", "--kernel", "weather", "-o", "again.toml", status=1).count("--force") == 1
    with headless(home, "again.toml", "--name", "again", command="run"):
        wait_for(lambda: listed(home, "again"))
        assert home.run("diff", "again.toml", "--kernel", "again") == ""


# --- without a router ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "status", "word"),
    [
        ("clean", 0, "3 processed, 0 errored"),
        ("thirty_one", 3, "60 processed, 2 errored (2 unresolved)"),
        ("stops_at_its_end", 0, "3 processed, 0 errored"),
        ("stops_early", 1, "stopped: f0: ZeroDivisionError"),
        ("broken_source", 1, "the source failed: RuntimeError: the line is down"),
        ("MACHINE", 1, "needs a machine with a source"),
    ],
)
def test_until_done_ends_with_a_status_for_its_outcome(offline_home, target, status, word):
    process = offline_home.popen("machine", f"app.py:{target}", "--offline", "--until-done")
    _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
    assert (process.returncode, word in stderr) == (status, True), stderr
    assert not list((offline_home.folder / "run").glob("*.json"))


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("app.py:NOBODY", "cannot be found"),
        ("app.py:A_NUMBER", "is a int, not a Machine"),
        ("app.py", "write FILE.py:NAME"),
        ("elsewhere.py:MACHINE", "no such file"),
        ("no.such.module:MACHINE", "cannot be found"),
    ],
)
def test_what_is_no_machine_is_refused_with_a_sentence(offline_home, target, word):
    assert word in offline_home.run("machine", target, "--offline", status=1)


def test_a_machine_of_a_module_runs_too_and_ctrl_c_ends_it(offline_home):
    process = offline_home.popen("machine", "app:MACHINE", "--offline", "--json", "--no-start")
    printed = json.loads(first_line(process, COMMAND_LIMIT_S))
    assert Path(printed["endpoint"].removeprefix("ipc://")).exists()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
    assert process.returncode == 0
    assert "0 unprocessed" in stderr


def test_validate_reports_every_problem(offline_home):
    (offline_home.folder / "timbr.toml").write_text('[machine]\nstage = 3\n[settings]\nport = "x"\n')
    found = offline_home.popen("validate", "--json")
    stdout, stderr = found.communicate(timeout=COMMAND_LIMIT_S)
    assert found.returncode == 1, stderr
    assert len(json.loads(stdout)["problems"]) == 2


def test_a_project_is_named_by_the_environment(offline_home):
    folder = offline_home.folder / "elsewhere"
    folder.mkdir()
    (folder / "timbr.toml").write_text("[source]\nsource = 'range(5)'\n")
    assert offline_home.run("validate", TIMBR_PROJECT=str(folder)) == ""
    offline_home.run("run", "--offline", "--until-done", TIMBR_PROJECT=str(folder))
    assert "cannot be read" in offline_home.run("run", "--offline", status=1)
