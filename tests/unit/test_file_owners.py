"""Files of another user decide nothing: not where a token goes, which process is spoken to, nor what runs.

Root gives the files away for real; for another user it is the process that becomes somebody else, as far as it
looks at ids.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from timbr_wamp import runtime
from timbr_wamp.client.client import find_router
from timbr_wamp.components import kernel_identity
from timbr_wamp.components.bridge_process import bridge_environment
from timbr_wamp.errors import InvalidToken, NoRouter, UnknownKernel
from timbr_wamp.settings import ConsentWanted, Settings, consent, load_settings, unanswered

pytestmark = pytest.mark.skipif(not hasattr(os, "getuid"), reason="files have no owner here")

OTHER = 12345
OWN: dict[str, Any] = {"pid": os.getpid(), "process_started": runtime.own_process_started()}
KERNEL_ID = "lab_0123456789ab"
#: One file of each kind, and where it lies in the runtime folder.
FILES: dict[str, msgspec.Struct] = {
    "node.json": runtime.NodeFile(
        **OWN, url="ws://127.0.0.1:1/ws", unix_url="rs+unix:///r.sock", page_url="http://127.0.0.1:1/", realm="timbr",
        node_dir="/node", token="admin.secret", host_token="lab.secret",
    ),
    "host-1.json": runtime.HostFile(**OWN, authid="lab", router="ws://127.0.0.1:1/ws"),
    f"kernel-{KERNEL_ID}.json": runtime.KernelFile(
        **OWN, kernel_id=KERNEL_ID, name="pump", connection_file="/c.json", command=["evil"], environment={}, cwd="/",
        started_at=0.0,
    ),
    f"headless-{KERNEL_ID}.json": runtime.HeadlessFile(
        **OWN, kernel_id=KERNEL_ID, name="pump", cwd="/", started_at=0.0, python="3.11.0"
    ),
    f"shared-{KERNEL_ID}.json": runtime.SharedFile(
        **OWN, kernel_id=KERNEL_ID, name="pump", connection_file="/c.json", started_at=0.0
    ),
    f"bridge-{KERNEL_ID}.json": runtime.BridgeFile(**OWN, kernel_id=KERNEL_ID),
    "machine-1-m.json": runtime.MachineFile(**OWN, name="m", run="r", pub="ipc://p", control="ipc://c"),
    "attached-lab-1.json": runtime.AttachedFile(kernel_id=KERNEL_ID, connection_file="/c.json"),
}  # fmt: skip


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a file another user's."""

    def give(path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, OTHER, OTHER)
        else:
            monkeypatch.setattr(os, "getuid", lambda: OTHER)

    return give


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = runtime.private_folder(tmp_path / "run")
    for name, content in FILES.items():
        runtime.replace_file(made / name, msgspec.json.encode(content))
    return made


@pytest.fixture
def settings(folder: Path) -> Settings:
    return Settings(runtime_dir=folder, host="lab")


def test_every_kind_of_runtime_file_is_tried() -> None:
    kinds = {
        each
        for each in vars(runtime).values()
        if isinstance(each, type) and issubclass(each, msgspec.Struct) and each.__name__.endswith("File")
    }
    assert {type(content) for content in FILES.values()} == kinds - {runtime.ProcessFile}


@pytest.mark.parametrize("name", FILES)
def test_a_runtime_file_of_another_user_reads_as_none(
    folder: Path, name: str, give_away: Callable[[Path], None]
) -> None:
    kind = type(FILES[name])
    assert runtime.read_file(folder / name, kind) == FILES[name]
    give_away(folder / name)
    assert runtime.read_file(folder / name, kind) is None


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
@pytest.mark.parametrize("name", FILES)
def test_a_runtime_file_that_others_may_write_reads_as_none(folder: Path, name: str, mode: int) -> None:
    (folder / name).chmod(mode)
    assert runtime.read_file(folder / name, type(FILES[name])) is None


def test_no_token_is_sent_to_what_another_users_file_calls_the_router(
    folder: Path, settings: Settings, give_away: Callable[[Path], None]
) -> None:
    assert find_router(None, None, None, settings).token == "admin.secret"
    assert bridge_environment(settings).token == "lab.secret"
    give_away(folder / "node.json")
    with pytest.raises(NoRouter):
        find_router(None, None, None, settings)
    assert find_router("ws://127.0.0.1:1/ws", None, None, settings).token is None
    with pytest.raises((NoRouter, InvalidToken)):
        bridge_environment(settings)


def test_no_process_is_found_by_another_users_file_and_the_file_stays(
    folder: Path, settings: Settings, give_away: Callable[[Path], None]
) -> None:
    assert runtime.local_host(folder, "ws://127.0.0.1:1/ws") is not None
    assert kernel_identity.kernel_named(folder, "pump", "") == KERNEL_ID
    for name in FILES:
        give_away(folder / name)
    assert runtime.local_host(folder, "ws://127.0.0.1:1/ws") is None
    assert kernel_identity.kernel_named(folder, "pump", "") is None
    for prefix in ("host-", "kernel-", "headless-", "shared-", "bridge-", "machine-"):
        assert runtime.live_files(folder, prefix, runtime.ProcessFile) == {}
    assert {path.name for path in folder.iterdir()} == set(FILES)


def test_no_kernel_is_adopted_from_another_users_file(folder: Path, give_away: Callable[[Path], None]) -> None:
    assert runtime.kernel_ids_of(folder, "/c.json") == {KERNEL_ID}
    assert kernel_identity.of_kernel_id(folder, KERNEL_ID).headless is not None
    (folder / f"headless-{KERNEL_ID}.json").unlink()
    assert kernel_identity.of_kernel_id(folder, KERNEL_ID).connection_file == Path("/c.json")
    for name in (f"kernel-{KERNEL_ID}.json", f"shared-{KERNEL_ID}.json", "attached-lab-1.json"):
        give_away(folder / name)
    assert runtime.kernel_ids_of(folder, "/c.json") == frozenset()
    with pytest.raises(UnknownKernel):
        kernel_identity.of_kernel_id(folder, KERNEL_ID)


def test_a_kernels_id_that_another_user_wrote_is_made_anew(tmp_path: Path, give_away: Callable[[Path], None]) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a file in its own folder away")
    connection_file = tmp_path / "c.json"
    connection_file.write_text("{}")
    first = kernel_identity.of_connection_file(tmp_path / "run", connection_file, "lab").kernel_id
    assert kernel_identity.of_connection_file(tmp_path / "run", connection_file, "lab").kernel_id == first
    (memory,) = (tmp_path / "run").glob("attached-*.json")
    give_away(memory)
    assert kernel_identity.of_connection_file(tmp_path / "run", connection_file, "lab").kernel_id != first


# --- settings ------------------------------------------------------------------------------------


def load(tmp_path: Path) -> Settings:
    return load_settings(environ={"TIMBR_WAMP_CONFIG_DIR": str(tmp_path / "config")}, folder=tmp_path)


@pytest.mark.parametrize("name", ["timbr.toml", "config/config.toml"])
def test_a_settings_file_of_another_user_is_ignored(
    tmp_path: Path, name: str, give_away: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('[settings]\nport = 9999\nrealm = "theirs"')
    assert load(tmp_path).port == 9999
    give_away(path)
    assert (load(tmp_path).port, load(tmp_path).realm) == (Settings().port, Settings().realm)


def test_another_users_project_asks_for_no_consent_and_another_users_consents_count_for_nothing(
    tmp_path: Path, give_away: Callable[[Path], None]
) -> None:
    path, environ = tmp_path / "timbr.toml", {"TIMBR_WAMP_CONFIG_DIR": str(tmp_path / "config")}
    path.write_text('[settings]\nurl = "wss://example.org/ws"\ntoken = "ada.s"')
    question = unanswered(tmp_path, environ)
    assert question is not None
    consent(question, environ)
    assert load(tmp_path).url == "wss://example.org/ws"
    give_away(tmp_path / "config" / "consents.json")
    if os.getuid() == 0:  # else the project's file is another user's as well
        with pytest.warns(ConsentWanted):
            assert load(tmp_path).url is None
    give_away(path)
    assert load(tmp_path).url is None
    assert unanswered(tmp_path, environ) is None


def test_files_of_the_system_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator may set up a project for all."""
    if os.getuid() != 0:
        pytest.skip("only root can make a file root's")
    (tmp_path / "timbr.toml").write_text("[settings]\nport = 9999")
    monkeypatch.setattr(os, "getuid", lambda: OTHER)
    assert load(tmp_path).port == 9999
