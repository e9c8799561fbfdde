"""What commands print can be pasted into the shell that they were called from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from timbr_wamp.command_line import command_line, command_name
from timbr_wamp.errors import AlreadyUp, HostNameTaken, NoRouter, NotAuthorized, TimbrError, TokenRejected


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A clone with an environment, whose Python is this one; nothing of it is on the PATH."""
    folder = tmp_path / "my clone" / ".venv" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("UV", raising=False)
    monkeypatch.chdir(folder.parents[1])
    return folder


def install(folder: Path) -> Path:
    path = folder / "timbr-wamp"
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_its_name_when_the_path_leads_to_it(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(environment)
    monkeypatch.setenv("PATH", str(environment))
    assert command_name() == "timbr-wamp"


def test_its_path_from_here_when_the_environment_is_not_activated(environment: Path) -> None:
    install(environment)
    assert command_name() == ".venv/bin/timbr-wamp"


def test_its_whole_path_elsewhere_and_when_the_path_leads_to_another_one(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = install(environment)
    install(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command_name() == f"'{mine}'"


def test_python_and_the_module_when_it_is_not_installed(environment: Path) -> None:
    assert command_name() == f"'{environment / 'python'}' -m timbr_wamp"


def test_its_whole_path_for_another_terminal(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = install(environment)
    assert command_name(from_here=False) == f"'{mine}'"
    assert command_line("list", elsewhere=True) == f"'{mine}' list"


def test_its_whole_path_under_uv_which_extends_the_path_for_what_it_runs(
    environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = install(environment)
    monkeypatch.setenv("PATH", str(environment))
    monkeypatch.setenv("UV", "/usr/bin/uv")
    assert command_name(from_here=False) == f"'{mine}'"


def test_words_are_quoted_for_the_shell(environment: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(environment)
    monkeypatch.setenv("PATH", str(environment))
    assert command_line("trust", "/my project/timbr.toml") == "timbr-wamp trust '/my project/timbr.toml'"


ERRORS: list[Callable[[], TimbrError]] = [
    lambda: NoRouter("nowhere"),
    lambda: TokenRejected("ada", "unknown"),
    lambda: NotAuthorized("register", "io.timbr.x"),
    lambda: HostNameTaken("lab"),
    lambda: AlreadyUp(1, "http://127.0.0.1:8080/"),
]


@pytest.mark.parametrize("make", ERRORS, ids=["router", "token", "role", "host", "up"])
def test_errors_say_what_can_be_typed(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[], TimbrError]
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    mine = install(environment)
    assert f"`'{mine}' " in str(make())
