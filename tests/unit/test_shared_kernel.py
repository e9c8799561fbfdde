"""A kernel that puts itself on the router, as far as it needs none: names, link, and the token in the link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from timbr_wamp import runtime
from timbr_wamp.components.bridge_process import BridgeEnvironment
from timbr_wamp.components.shared_kernel import SharedPresence, forget_ended, page_of
from timbr_wamp.components.sharing import notebook_name
from timbr_wamp.errors import InvalidArgument, ShareFailed
from timbr_wamp.faces.shared import Shared
from timbr_wamp.machine import Machine
from timbr_wamp.router import TokenStore
from timbr_wamp.runtime import NodeFile, SharedFile
from timbr_wamp.settings import load_settings

URL = "rs+unix:///tmp/x/router.sock"


class Kernel:
    """What is asked of an own kernel."""

    def __init__(self, connection_file: str = "/r/kernel-1a2b.json", **namespace: object) -> None:
        self._file, self._namespace = connection_file, namespace

    def connection_file(self) -> str:
        return self._file

    def namespace(self) -> dict[str, object]:
        return self._namespace


@pytest.fixture
def environment(tmp_path: Path) -> BridgeEnvironment:
    """A router that runs here, as its runtime file says: it is this process."""
    folder = runtime.private_folder(tmp_path / "run")
    node = NodeFile(
        pid=os.getpid(), process_started=runtime.own_process_started(), url="ws://127.0.0.1:1/ws", unix_url=URL,
        page_url="http://127.0.0.1:1/", realm="timbr", node_dir=str(runtime.private_folder(tmp_path / "node")),
        token="admin.x", host_token="lab.x",
    )  # fmt: skip
    runtime.write_file(runtime.node_file(folder), node)
    return BridgeEnvironment(folder, URL, "timbr", "lab.x")


@pytest.fixture
def presence(environment: BridgeEnvironment, tmp_path: Path) -> SharedPresence:
    connection_file = tmp_path / "kernel-1.json"
    connection_file.write_text("{}")
    settings = load_settings(environ={}, runtime_dir=environment.runtime_dir, data_dir=tmp_path)
    return SharedPresence(settings, str(connection_file), "lab book", "operator")


def names_of_tokens(tmp_path: Path) -> dict[str, str]:
    return {token.name: token.role for token in TokenStore(tmp_path / "node").list()}


def files(environment: BridgeEnvironment) -> list[Path]:
    return list(environment.runtime_dir.glob("shared-*"))


@pytest.mark.parametrize("verb", [lambda m: m.share(), lambda m: m.unshare()], ids=["share", "unshare"])
def test_a_program_is_told_which_command_puts_its_machine_on_the_router(verb):
    with Machine(2) as machine, pytest.raises(ShareFailed, match=r"timbr-wamp machine FILE\.py:NAME"):
        verb(machine)


def test_a_link_of_an_unknown_role_is_refused():
    with Machine(2) as machine, pytest.raises(InvalidArgument, match="viewer, operator, admin"):
        machine.share(role="host")


@pytest.mark.parametrize(
    ("environ", "namespace", "name"),
    [
        ({"JPY_SESSION_NAME": "/home/ada/lab book.ipynb"}, {}, "lab_book"),
        ({}, {"__vsc_ipynb_file__": "/home/ada/a[1].ipynb"}, "a_1"),
        ({"JPY_SESSION_NAME": "1a2b-3c"}, {"__vsc_ipynb_file__": 3}, "kernel_1a2b"),
        ({}, {}, "kernel_1a2b"),
    ],
)
def test_a_kernel_is_named_after_its_notebook_where_that_is_told(environ, namespace, name):
    assert notebook_name(environ, Kernel(**namespace)) == name


def test_the_link_has_a_token_of_its_own_that_ends_with_it(presence, environment, tmp_path):
    kernel_id = presence.kernel_id(environment)
    presence.write(environment, kernel_id)
    assert names_of_tokens(tmp_path) == {f"page_{kernel_id[-12:]}": "operator"}
    assert TokenStore(tmp_path / "node").valid(presence.file.page_token, "operator")
    presence.remove()
    presence.remove()
    assert names_of_tokens(tmp_path) == {}
    assert files(environment) == []


def test_writing_it_again_leaves_one_token(presence, environment, tmp_path):
    kernel_id = presence.kernel_id(environment)
    presence.write(environment, kernel_id)
    first = presence.file.page_token
    presence.write(environment, kernel_id)
    assert len(names_of_tokens(tmp_path)) == 1
    assert not TokenStore(tmp_path / "node").valid(first, "operator")


def test_what_a_killed_kernel_left_is_removed_by_the_next_one(presence, environment, tmp_path):
    kernel_id = presence.kernel_id(environment)
    presence.write(environment, kernel_id)
    path = runtime.shared_file(environment.runtime_dir, kernel_id)
    forget_ended(environment.runtime_dir)
    assert path.exists()
    file = runtime.read_file(path, SharedFile)
    file.process_started -= 1000  # a process that is gone
    runtime.write_file(path, file)
    forget_ended(environment.runtime_dir)
    assert files(environment) == []
    assert names_of_tokens(tmp_path) == {}


def test_a_router_elsewhere_gets_no_token(presence, environment, tmp_path):
    there = BridgeEnvironment(environment.runtime_dir, "wss://example.org/ws", "timbr", "lab.x")
    presence.write(there, presence.kernel_id(there))
    assert presence.file.page_token is None
    assert names_of_tokens(tmp_path) == {}


def test_the_address_of_a_page_follows_from_the_routers_url():
    assert page_of("ws://user@10.0.0.1:8080/ws", {"kernel": "lab_1"}) == "http://10.0.0.1:8080/#kernel=lab_1"
    assert page_of(URL, {}) is None


def test_the_display_has_a_link_and_escapes_names():
    shared = Shared("lab_4f2a9c01d3e7", "<b>", ("machine",), URL, "http://127.0.0.1:1/#token=a.b&kernel=lab_1")
    assert "http://127.0.0.1:1/#token=a.b&kernel=lab_1" in str(shared)
    assert 'href="http://127.0.0.1:1/#token=a.b&amp;kernel=lab_1"' in shared._repr_html_()
    assert "<b>" not in shared._repr_html_()
    assert "machines: none yet" in str(Shared("lab_4f2a9c01d3e7", "x", (), URL, None))
