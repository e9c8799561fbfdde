"""A new user's terminal: what README and commands say is typed as it stands, in a folder outside of the clone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_home import COMMAND_LIMIT_S, UP_LIMIT_S, Home, first_line, wait_for

from timbr_wamp.router import free_port as pick_free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

README = Path(__file__).parents[2] / "README.md"
#: The command of the environment in which the tests run, as of a clone whose environment is not activated.
COMMAND = Path(sys.executable).with_name("timbr-wamp")
#: Lines that run until they are ended, by their beginnings.
LASTING = ("timbr-wamp watch", "timbr-wamp tail", "tail -f", "timbr-wamp bridge")


class Shell:
    """A shell in a fresh folder, whose PATH leads to no command of ours."""

    def __init__(self, home: Home) -> None:
        self.home = home
        folders = [
            folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / COMMAND.name).exists()
        ]
        self.path = os.pathsep.join(folders)
        self.environ = home.environ | {"PATH": self.path, "TIMBR_WAMP_PORT": str(pick_free_port())}
        self.environ.pop("UV", None)

    def activate(self) -> None:
        """Put the environment's commands on the PATH, as the README says."""
        self.environ["PATH"] = os.pathsep.join((str(COMMAND.parent), self.path))

    def run(self, line: str, status: int = 0) -> str:
        """Run a line to its end; return what it printed, on stdout and stderr."""
        done = subprocess.run(
            ["sh", "-c", line], env=self.environ, cwd=self.home.folder, capture_output=True, text=True,
            timeout=COMMAND_LIMIT_S,
        )  # fmt: skip
        assert done.returncode == status, f"{line}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def start(self, line: str) -> subprocess.Popen[str]:
        """Start a line that runs until it is ended."""
        return subprocess.Popen(
            ["sh", "-c", line], env=self.environ, cwd=self.home.folder, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    """Replace the general check: kernels of a home come and go below us; `Home` itself looks at what is left."""


@pytest.fixture
def shell(crossbar: Path) -> Iterator[Shell]:
    if not COMMAND.exists():
        pytest.skip("the package is not installed beside this Python")
    home = Home(crossbar)
    yield Shell(home)
    home.close()


def printed(text: str) -> list[str]:
    """Return the commands in a text that are there to be typed: up to the end of the line, or of the quotation."""
    return [found.rstrip() for found in re.findall(rf"{re.escape(str(COMMAND))}(?: [^`\n]+)?", text)]


def blocks_of_the_readme() -> tuple[str, list[str]]:
    """Return the README's `machine.py`, and the lines of its section about the terminal."""
    section = README.read_text(encoding="utf-8").partition("## In a terminal")[2].partition("\n## ")[0]
    (python,) = re.findall(r"^```python\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (lines,) = re.findall(r"^```sh\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    return python, lines.splitlines()


def test_what_is_printed_can_be_typed(shell: Shell) -> None:
    (up,) = printed(shell.run(f"{COMMAND} list", status=1))
    services = shell.start(up)
    said = [first_line(services, UP_LIMIT_S)]
    while "Ctrl-C ends" not in said[-1]:
        said.append(first_line(services, COMMAND_LIMIT_S))
    listing, creating = printed("".join(said))

    # a token is shown for the browser alone
    (path,) = Path(shell.environ["TIMBR_WAMP_DATA_DIR"]).rglob("local-tokens.json")
    secret = json.loads(path.read_text())["admin"].partition(".")[2]
    assert [line.split()[:3] for line in said if secret in line] == [["in", "a", "browser"]]
    assert any(line.strip() == "%wamp connect" for line in said)

    (starting,) = printed(shell.run(listing))
    kernel_id = shell.run(starting).strip()
    assert kernel_id in shell.run(listing)
    shell.run(f"{COMMAND} kernel stop {kernel_id}")
    assert shell.run(creating).startswith("ada.")
    run_the_readme(shell)
    (stopping,) = printed(shell.run(up, status=1))  # this one runs
    shell.run(stopping)
    output, _ = services.communicate(timeout=COMMAND_LIMIT_S)
    assert services.returncode == 0, output
    assert up in printed(shell.run(f"{COMMAND} doctor"))
    assert shell.home.processes() == []


def run_the_readme(shell: Shell) -> None:
    """Run the lines of the README on a node that is up, in order; end those that last, and leave no kernel."""
    shell.activate()
    machine, lines = blocks_of_the_readme()
    assert lines[0].startswith("timbr-wamp up ")
    (shell.home.folder / "machine.py").write_text(machine)
    (shell.home.folder / "events.jsonl").write_text('{"x": 1}\nfoo\n{"x": 2}\n')
    connection_file = shell.home.folder / "kernel-1234.json"
    jupyter = shell.start(f"exec {sys.executable} -m ipykernel_launcher -f {connection_file}")
    lasting = []
    try:
        for line in lines[1:]:
            if line.startswith(LASTING):
                if connection_file.name in line:
                    wait_for(lambda: time.sleep(0.05) or connection_file.exists())
                lasting.append((line, shell.start(line)))
            else:
                shell.run(line)
        for line, process in lasting:
            assert process.poll() is None, f"{line}: {process.communicate()[0]}"
            if "watch" not in line:  # it prints at its end when its output is no terminal
                first_line(process, COMMAND_LIMIT_S)
    finally:
        for _, process in lasting:
            os.killpg(process.pid, signal.SIGINT)
            process.communicate(timeout=COMMAND_LIMIT_S)
        jupyter.terminate()
        jupyter.communicate(timeout=COMMAND_LIMIT_S)
    shell.run("timbr-wamp kernel stop lab")
    shell.environ["PATH"] = shell.path
