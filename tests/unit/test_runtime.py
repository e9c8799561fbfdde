"""Living processes of one user find each other by small files in a folder that is theirs alone."""

from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from timbr_wamp import runtime
from timbr_wamp.errors import UnsafeFolder


def machine_file(pid: int, started: float, name: str = "machine") -> runtime.MachineFile:
    return runtime.MachineFile(pid=pid, process_started=started, name=name, run="r", pub="ipc://p", control="ipc://c")


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_runtime_folder_is_made_for_its_owner_alone(tmp_path):
    folder = runtime.private_folder(tmp_path / "a" / "run")
    assert mode(folder) == 0o700
    assert runtime.private_folder(folder) == folder


@pytest.mark.parametrize("open_to", [0o750, 0o705, 0o777, 0o710])
def test_a_folder_that_others_may_open_is_refused(tmp_path, open_to):
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(open_to)
    with pytest.raises(UnsafeFolder, match=f"{open_to:04o}"):
        runtime.private_folder(folder)
    with pytest.raises(UnsafeFolder):
        runtime.write_file(folder / "machine-1-m.json", machine_file(1, 0.0))
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(UnsafeFolder, match="another user"):
        runtime.private_folder(folder)


def test_sockets_of_a_long_folder_go_to_a_short_one_that_is_private_too(tmp_path):
    short = runtime.private_folder(tmp_path / "s")
    long = runtime.private_folder(tmp_path / ("x" * 90))
    assert runtime.socket_folder(long, 14) != long
    made = runtime.socket_folder(long, 14)
    try:
        assert mode(made) == 0o700
        assert len(os.fsencode(made)) + 1 + 14 <= runtime.SOCKET_PATH_LIMIT_BYTES
    finally:
        made.rmdir()
    if len(os.fsencode(short)) < 80:
        assert runtime.socket_folder(short, 14) == short


def test_a_runtime_file_is_readable_by_its_owner_alone_and_comes_back_whole(tmp_path):
    content = machine_file(os.getpid(), runtime.own_process_started())
    path = runtime.write_file(tmp_path / "run" / "machine-1-m.json", content)
    assert mode(path) == 0o600
    assert runtime.read_file(path, runtime.MachineFile) == content
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_what_is_no_runtime_file_reads_as_none(tmp_path):
    path = tmp_path / "machine-1-m.json"
    assert runtime.read_file(path, runtime.MachineFile) is None
    path.write_text("{")
    assert runtime.read_file(path, runtime.MachineFile) is None
    path.write_text('{"pid": 1}')
    assert runtime.read_file(path, runtime.MachineFile) is None


def test_a_file_that_others_may_have_written_reads_as_none(tmp_path):
    content = machine_file(os.getpid(), runtime.own_process_started())
    path = runtime.write_file(tmp_path / "run" / "machine-1-m.json", content)
    assert runtime.read_file(path, runtime.MachineFile) == content
    for mode in (0o660, 0o602):
        path.chmod(mode)
        assert runtime.read_file(path, runtime.MachineFile) is None
    path.chmod(0o600)
    if os.getuid() == 0:  # only root can give a file away
        os.chown(path, 12345, 12345)
        assert runtime.read_file(path, runtime.MachineFile) is None


def test_files_of_dead_processes_are_removed_and_those_of_living_ones_found(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = runtime.process_started(child.pid)
    assert started is not None
    folder = tmp_path / "run"
    ours = runtime.write_file(folder / "machine-1-ours.json", machine_file(os.getpid(), runtime.own_process_started()))
    theirs = runtime.write_file(folder / "machine-2-theirs.json", machine_file(child.pid, started))
    broken = folder / "machine-3-broken.json"
    broken.write_text("{")
    assert set(runtime.live_files(folder, "machine-", runtime.MachineFile)) == {ours, theirs}
    child.kill()
    child.communicate()
    assert set(runtime.live_files(folder, "machine-", runtime.MachineFile, clean=False)) == {ours}
    assert theirs.exists()
    assert set(runtime.live_files(folder, "machine-", runtime.MachineFile)) == {ours}
    assert not theirs.exists()
    assert broken.exists(), "what cannot be read may be another version's"


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = runtime.process_started(child.pid)
    assert started is not None
    assert runtime.process_alive(child.pid, started)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not runtime.process_alive(child.pid, started)
    child.communicate()


def test_a_reused_pid_is_not_mistaken_for_the_process_before():
    started = runtime.own_process_started()
    assert runtime.process_alive(os.getpid(), started)
    assert not runtime.process_alive(os.getpid(), started - 0.02 if sys.platform == "linux" else started - 2.0)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_setting_the_clock_kills_nobody(monkeypatch):
    """A process's start in the time of day moves with the clock; what we keep must not."""
    import psutil

    started = runtime.own_process_started()
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + 3600.0)
    assert runtime.process_alive(os.getpid(), started)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_whose_name_holds_brackets_and_spaces_is_read_right(tmp_path):
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to("/bin/cat")
    child = subprocess.Popen([odd], stdin=subprocess.PIPE)
    try:
        started = runtime.process_started(child.pid)
        assert started is not None
        assert runtime.own_process_started() <= started
    finally:
        child.kill()
        child.communicate()


def test_no_secret_of_a_runtime_file_is_shown():
    node = runtime.NodeFile(
        pid=1, process_started=0.0, url="ws://x", unix_url="u", page_url="p", realm="r", node_dir="d",
        token="hunter2", host_token="hunter3",
    )  # fmt: skip
    file = machine_file(1, 0.0)
    file.curve_client_secret = "hunter4"
    kernel = runtime.KernelFile(
        pid=1, process_started=0.0, kernel_id="lab_1", name="n", connection_file="f", command=[], cwd="/",
        environment={"PASSWORD": "hunter5"}, started_at=0.0,
    )  # fmt: skip
    assert "hunter" not in repr(node) + repr(file) + repr(kernel)
