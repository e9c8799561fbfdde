"""Real processes: signalled by identity, ended with their group, adopted by runtime file, restarted, given up on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from wait_kit import wait_until

from timbr_wamp import runtime
from timbr_wamp.errors import NoRouter, PortBusy
from timbr_wamp.processes import Process, RestartPolicy, Supervisor, end_all, lock, log_tail, process, spawn, unlock

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
IGNORES_SIGTERM = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)",
]
WITH_A_CHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', "
    '"import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"])\n'
    "print('child', child.pid, flush=True)\n"
    "time.sleep(60)",
]


@pytest.fixture(params=["pidfd", "pid and start time"])
def identity(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with pidfds, and as on a system without them."""
    if request.param == "pidfd":
        if not hasattr(os, "pidfd_open"):
            pytest.skip("this system has no pidfds")
    else:
        monkeypatch.delattr(process.os, "pidfd_open", raising=False)


def start(tmp_path: Path, command: list[str] = SLEEP) -> Process:
    return spawn(command, environment=dict(os.environ), log_file=tmp_path / "log.txt")


@pytest.mark.usefixtures("identity")
def test_a_process_is_ended_and_says_how(tmp_path):
    child = start(tmp_path)
    assert child.alive
    assert child.end(term_s=20)
    assert not child.alive
    assert child.exit_status == -signal.SIGTERM
    assert not child.signal(signal.SIGTERM)
    assert child.end()


@pytest.mark.usefixtures("identity")
def test_one_that_ignores_sigterm_is_killed_and_a_frozen_one_too(tmp_path):
    deaf = start(tmp_path, IGNORES_SIGTERM)
    wait_until(lambda: "ready" in log_tail(tmp_path / "log.txt"))
    frozen = start(tmp_path)
    assert frozen.signal(signal.SIGSTOP)
    for child in (deaf, frozen):
        assert child.alive
        assert child.end(term_s=0.05)
        assert child.exit_status == -signal.SIGKILL


@pytest.mark.usefixtures("identity")
def test_the_children_of_a_process_end_with_it_deaf_ones_too(tmp_path):
    parent = start(tmp_path, WITH_A_CHILD)
    wait_until(lambda: "child" in log_tail(tmp_path / "log.txt") and "1\n" in log_tail(tmp_path / "log.txt") + "\n")
    (child,) = psutil.Process(parent.pid).children()
    assert parent.end(term_s=20)
    wait_until(lambda: not runtime.process_alive(child.pid, runtime.process_started(child.pid) or -1.0))


@pytest.mark.usefixtures("identity")
def test_a_reused_pid_is_never_signalled(tmp_path):
    child = start(tmp_path)
    other = Process(child.pid, child.started - 10.0)  # what a runtime file of an earlier process would say
    assert not other.alive
    assert not other.signal(signal.SIGKILL)
    assert other.end()
    assert child.alive
    assert child.end(term_s=20)


def test_many_processes_are_ended_at_the_same_time_with_their_children(tmp_path):
    log = tmp_path / "log.txt"
    stubborn = [start(tmp_path, IGNORES_SIGTERM) for _ in range(4)]
    family = start(tmp_path, WITH_A_CHILD)
    wait_until(lambda: log.read_text().count("ready") == 4, "they ignore SIGTERM")
    wait_until(lambda: "child" in log.read_text(), "the child is there")
    child = psutil.Process(int(log.read_text().partition("child ")[2].split()[0]))
    started = time.monotonic()
    assert end_all([*stubborn, family], term_s=1.0, kill_s=20) == []
    assert time.monotonic() - started < 4 * 1.0, "they were waited for together"
    assert not any(process.alive for process in (*stubborn, family))
    wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, "the child ended, too")


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfds")
def test_the_end_of_a_process_wakes_who_waits_for_it(tmp_path):
    child = subprocess.Popen(SLEEP)
    found = Process(child.pid, runtime.process_started(child.pid) or 0.0)
    assert not found.wait(0.01)
    child.kill()
    assert found.wait(20)  # before it was collected: a zombie has ended
    assert child.wait(20) == -signal.SIGKILL


def test_a_log_tells_only_what_the_current_process_wrote(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("of an earlier process\n")
    supervisor = Supervisor(
        "it",
        lambda: start(tmp_path, [sys.executable, "-c", "print('no licence'); raise SystemExit(3)"]),
        log_file=log,
        policy=RestartPolicy(limit=0),
    )
    supervisor.start()
    wait_until(lambda: not supervisor.alive)
    assert not supervisor.check()
    assert supervisor.state == "given_up"
    assert supervisor.log == "no licence"
    assert supervisor.reason is not None
    assert supervisor.reason.endswith("at last: it ended with status 3"), "its last line is a hint, not the reason"
    assert "of an earlier process" in log_tail(log)


FAILS = [
    sys.executable,
    "-c",
    "from timbr_wamp.errors import NoRouter, PortBusy\n"
    "from timbr_wamp.processes import hand_over\n"
    "hand_over(PortBusy(8080))\n"
    "print('some other line, of another thread')\n"
    "raise SystemExit(1)",
]


def test_the_reason_of_an_end_is_what_the_process_said_and_not_what_it_wrote_last(tmp_path):
    log, reason = tmp_path / "log.txt", tmp_path / "log.reason"
    commands = [SLEEP, FAILS]
    supervisor = Supervisor(
        "it",
        lambda: spawn(commands.pop(), environment=dict(os.environ), log_file=log, reason_file=reason),
        log_file=log,
        reason_file=reason,
    )
    supervisor.start()
    wait_until(lambda: not supervisor.alive)
    assert str(supervisor.error) == str(PortBusy(8080))
    supervisor.check()
    assert supervisor.alive, "the next one was started"
    assert supervisor.error is None, "which has not failed"
    supervisor.process.signal(signal.SIGKILL)
    wait_until(lambda: not supervisor.alive)
    supervisor.check()
    assert supervisor.reason == "it was killed (signal 9)"
    assert supervisor.error is None
    supervisor.end()


@pytest.mark.parametrize("command", [["host"], ["bridge", "--kernel-id", "lab_0123456789ab"]], ids=["host", "bridge"])
def test_a_service_that_cannot_start_hands_over_its_error(tmp_path, command):
    folders = {f"TIMBR_WAMP_{kind}_DIR": str(tmp_path / kind) for kind in ("RUNTIME", "DATA", "CONFIG")}
    supervisor = Supervisor(
        "it",
        lambda: spawn(
            [sys.executable, "-W", "ignore", "-m", "timbr_wamp", *command],
            environment={**os.environ, **folders},
            log_file=tmp_path / "log.txt",
            reason_file=tmp_path / "reason",
        ),
        reason_file=tmp_path / "reason",
    )
    supervisor.start()
    wait_until(lambda: not supervisor.alive)
    assert isinstance(supervisor.error, NoRouter)
    supervisor.end()


def test_a_process_does_not_speak_for_the_one_that_started_it(tmp_path):
    reason, log = tmp_path / "reason", tmp_path / "log.txt"
    outer = (
        "import os, pathlib, sys\n"
        "from timbr_wamp.processes import spawn\n"
        f"child = spawn({FAILS!r}, environment=os.environ, log_file=pathlib.Path({str(log)!r}))\n"
        "assert child.wait(20)\n"
    )
    child = spawn([sys.executable, "-c", outer], environment=dict(os.environ), log_file=log, reason_file=reason)
    assert child.wait(30)
    assert child.exit_status == 0
    assert not reason.exists()


def test_a_killed_process_is_restarted_and_what_somebody_else_started_is_adopted(tmp_path):
    found: list[Process] = []
    made: list[Process] = []

    def make() -> Process:
        made.append(start(tmp_path))
        return made[-1]

    now = [0.0]
    supervisor = Supervisor(
        "it", make, find=lambda: found[0] if found else None, policy=RestartPolicy(first_s=5.0), clock=lambda: now[0]
    )
    supervisor.start()
    for _ in range(2):
        assert supervisor.process is not None
        supervisor.process.signal(signal.SIGKILL)
        wait_until(lambda: not supervisor.alive)
        if supervisor.check():  # the first restart is made at once
            continue
        assert (supervisor.state, supervisor.reason) == ("waiting", "it was killed (signal 9)")
        now[0] += 5.0
        found.append(start(tmp_path))
        assert not supervisor.check(may_start=False)
        assert supervisor.check()
    assert len(made) == 2
    assert supervisor.process is found[0]
    assert supervisor.end(term_s=20)
    assert not supervisor.check()
    assert not found[0].alive


def test_what_cannot_be_started_is_tried_again_and_given_up(tmp_path):
    supervisor = Supervisor(
        "it",
        lambda: start(tmp_path, ["/no/such/program"]),
        policy=RestartPolicy(limit=1, first_s=0.0, cap_s=0.0),
    )
    supervisor.start()
    assert supervisor.state == "waiting"
    assert not supervisor.check()
    assert supervisor.state == "given_up"
    assert "could not be started" in (supervisor.reason or "")


def test_a_lock_has_one_holder_and_ends_with_it(tmp_path):
    path = tmp_path / "it.lock"
    held = lock(path)
    assert held is not None
    assert lock(path) is None
    unlock(path, held)
    assert not path.exists()
    again = lock(path)
    assert again is not None
    unlock(path, again)
