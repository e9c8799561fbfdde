"""Which kernel a bridge is for, and that there is one bridge for it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from timbr_wamp import runtime
from timbr_wamp.components import kernel_identity as identity
from timbr_wamp.errors import AlreadyBridged, InvalidName, NoConnectionFile, UnknownKernel
from timbr_wamp.runtime import BridgeFile, KernelFile

ROUTER = "ws://127.0.0.1:1/ws"
KERNEL_ID = "lab_0123456789ab"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return runtime.private_folder(tmp_path / "run")


@pytest.fixture
def connection_file(tmp_path: Path) -> Path:
    path = tmp_path / "kernel-7.json"
    path.write_text("{}")
    return path


def test_a_connection_file_gets_one_id_and_keeps_it(folder: Path, connection_file: Path) -> None:
    first = identity.of_connection_file(folder, connection_file, "lab")
    assert first.kernel_id.startswith("lab_")
    assert first.file is None
    assert identity.of_connection_file(folder, connection_file, "lab") == first


def test_another_token_gets_another_id(folder: Path, connection_file: Path) -> None:
    ids = {identity.of_connection_file(folder, connection_file, host).kernel_id for host in ("lab", "lab_2")}
    assert len(ids) == 2


def test_a_name_that_a_bridge_was_given_is_kept_for_later_bridges(folder: Path, connection_file: Path) -> None:
    theirs = identity.of_connection_file(folder, connection_file, "lab")
    assert theirs.name == "kernel_7"
    identity.keep_name(folder, theirs, "tank")
    again = identity.of_connection_file(folder, connection_file, "lab")
    assert (again.kernel_id, again.name) == (theirs.kernel_id, "tank")
    ours = KernelFile(
        pid=1, process_started=0.0, kernel_id=KERNEL_ID, name=KERNEL_ID, connection_file="/nowhere", command=[],
        environment={}, cwd="/", started_at=0.0,
    )  # fmt: skip
    runtime.write_file(runtime.kernel_file(folder, KERNEL_ID), ours)
    identity.keep_name(folder, identity.of_kernel_id(folder, KERNEL_ID), "pump")
    assert identity.of_kernel_id(folder, KERNEL_ID).name == "pump"


def test_a_link_to_the_file_is_the_same_kernel(folder: Path, connection_file: Path, tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(connection_file)
    first = identity.of_connection_file(folder, connection_file, "lab")
    assert identity.of_connection_file(folder, tmp_path / "link.json", "lab") == first


def test_the_ids_of_deleted_connection_files_are_forgotten(folder: Path, connection_file: Path, tmp_path: Path) -> None:
    first = identity.of_connection_file(folder, connection_file, "lab")
    connection_file.unlink()
    (tmp_path / "other.json").write_text("{}")
    identity.of_connection_file(folder, tmp_path / "other.json", "lab")
    connection_file.write_text("{}")
    assert identity.of_connection_file(folder, connection_file, "lab").kernel_id != first.kernel_id


def test_a_damaged_file_of_ids_is_replaced(folder: Path, connection_file: Path) -> None:
    identity.of_connection_file(folder, connection_file, "lab")
    (memory,) = folder.glob("attached-*.json")
    memory.write_text("[1")
    assert identity.of_connection_file(folder, connection_file, "lab").kernel_id.startswith("lab_")


def test_a_bare_name_is_looked_for_where_jupyter_keeps_its_files(
    folder: Path, connection_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    for name in ("kernel-7.json", "7"):
        assert identity.of_connection_file(folder, Path(name), "lab").connection_file == connection_file.resolve()
    with pytest.raises(NoConnectionFile, match="no such file"):
        identity.of_connection_file(folder, Path("8"), "lab")


def test_the_connection_file_of_one_of_ours_is_ours(folder: Path, connection_file: Path) -> None:
    file = KernelFile(
        pid=1,
        process_started=0.0,
        kernel_id=KERNEL_ID,
        name="pump",
        connection_file=str(connection_file),
        command=[],
        environment={},
        cwd="/",
        started_at=time.time(),
    )
    runtime.write_file(runtime.kernel_file(folder, KERNEL_ID), file)
    found = identity.of_connection_file(folder, connection_file, "other")
    assert (found.kernel_id, found.file) == (KERNEL_ID, file)
    assert identity.of_kernel_id(folder, KERNEL_ID).file == file


def test_an_unknown_kernel_is_refused(folder: Path) -> None:
    with pytest.raises(UnknownKernel):
        identity.of_kernel_id(folder, KERNEL_ID)
    with pytest.raises(InvalidName):
        identity.of_kernel_id(folder, "../../etc")


def test_a_kernel_is_held_by_one_bridge_at_a_time(folder: Path) -> None:
    with identity.lock_kernel(folder, KERNEL_ID, ROUTER) as left:
        assert left is None
        with pytest.raises(AlreadyBridged, match=str(os.getpid())), identity.lock_kernel(folder, KERNEL_ID, ROUTER):
            pass
    with identity.lock_kernel(folder, KERNEL_ID, ROUTER):
        pass
    assert list(folder.iterdir()) == []


def test_the_subshell_of_a_killed_bridge_is_passed_to_the_next(folder: Path) -> None:
    content = BridgeFile(pid=1 << 30, process_started=0.0, kernel_id=KERNEL_ID, subshell_id="s")
    runtime.write_file(runtime.bridge_file(folder, KERNEL_ID), content)
    with identity.lock_kernel(folder, KERNEL_ID, ROUTER) as left:
        assert left == "s"
