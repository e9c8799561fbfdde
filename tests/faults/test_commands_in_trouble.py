"""Commands where disk, streams, user or working folder are not as they should be: one sentence, never a traceback."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from timbr_wamp.router import free_port

COMMAND = (sys.executable, "-m", "timbr_wamp")
#: The command as a user of whom the system knows nothing, as in a container that is given any user id.
STRANGER = (
    sys.executable,
    "-c",
    """
import os, pwd
for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
    os.environ.pop(name, None)
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
from timbr_wamp.cli import main
main(prog_name="timbr-wamp")
""",
)
MACHINE = """
from timbr_wamp import Machine
m = Machine(2)
m.source = range(3)
"""


@pytest.fixture
def home() -> Iterator[Path]:
    """A short folder with those of the settings."""
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    (folder / "app.py").write_text(MACHINE)
    yield folder
    shutil.rmtree(folder)


def run(home: Path, words: Sequence[str], command: Sequence[str] = COMMAND, **options: Any) -> Any:
    """Run a command to its end; its folders are in ``home`` unless ``env`` says otherwise."""
    folders = {f"TIMBR_WAMP_{kind}_DIR": str(home / kind.lower()) for kind in ("RUNTIME", "DATA", "CONFIG")}
    folders |= {"PYTHONPATH": str(Path(__file__).parents[2]), "TIMBR_WAMP_PORT": str(free_port())}
    environ = {**os.environ, **folders, **options.pop("env", {})}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": home, **options}
    return subprocess.run([*command, *words], env=environ, timeout=60, **options)


def sentence(done: Any) -> str:
    """Return the one line that a failed command printed on stderr."""
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 1, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("timbr-wamp: ")
    return str(lines[0])


def stdout_closed() -> None:
    os.close(1)


def nothing_can_be_written() -> None:
    # Python ignores SIGXFSZ, so a write fails with EFBIG, as one to a full disk does with ENOSPC; pipes are not files
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize("words", [["token", "list"], ["doctor"], ["doctor", "--json"], ["--help"], ["up", "--help"]])
def test_a_full_stdout_is_said_in_one_sentence(home, words):
    with open("/dev/full", "w") as full:
        assert "cannot write to stdout: No space left" in sentence(run(home, words, stdout=full))


@pytest.mark.parametrize("words", [["token", "list"], ["doctor"], ["--version"]])
def test_a_closed_stdout_is_said_in_one_sentence(home, words):
    assert "cannot write to stdout: " in sentence(run(home, words, stdout=None, preexec_fn=stdout_closed))


def test_a_command_without_a_result_needs_no_stdout_and_no_stderr(home):
    def both_closed() -> None:
        os.close(1)
        os.close(2)

    done = run(home, ["router", "stop"], stdout=None, stderr=None, preexec_fn=both_closed)
    assert done.returncode == 0


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_without_the_characters_gets_escapes(home, encoding):
    (home / "data").mkdir(0o700)
    (home / "data" / "κ").mkdir()
    environ = {"PYTHONIOENCODING": encoding, "TIMBR_WAMP_DATA_DIR": str(home / "data" / "κ")}
    done = run(home, ["doctor"], env=environ)
    assert rb"\u03ba" in done.stdout
    assert done.stderr == b""
    found = json.loads(run(home, ["doctor", "--json"], env=environ).stdout.decode(encoding))
    assert any(one["text"].endswith("κ") for one in found)


def test_a_deleted_working_folder_is_no_obstacle(home):
    def gone() -> None:
        folder = tempfile.mkdtemp(dir=home)
        os.chdir(folder)
        os.rmdir(folder)

    done = run(home, ["token", "create", "--role", "viewer", "--name", "ada"], preexec_fn=gone)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"ada.")
    assert run(home, ["doctor"], preexec_fn=gone).stderr == b""


@pytest.mark.parametrize(
    ("words", "file"),
    [
        (["up"], "data/node/tokens.json"),
        (["token", "create", "--role", "viewer", "--name", "ada"], "data/node/tokens.json"),
        (["machine", "app.py:m", "--offline", "--until-done"], "runtime/machine-"),
    ],
)
def test_a_full_disk_is_said_with_the_file(home, words, file, crossbar):
    environ = {"TIMBR_WAMP_CROSSBAR": str(crossbar)}
    said = sentence(run(home, words, env=environ, preexec_fn=nothing_can_be_written))
    assert str(home / file) in said
    assert "File too large" in said


def test_doctor_finds_folders_that_cannot_be_written(home):
    done = run(home, ["doctor", "--json"], preexec_fn=nothing_can_be_written)
    problems = {one["what"] for one in json.loads(done.stdout) if one["verdict"] == "problem"}
    assert {"runtime folder", "data folder"} <= problems
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("words", [["up"], ["token", "list"]])
def test_a_data_folder_that_cannot_be_made_is_said(home, words, crossbar):
    (home / "file").write_text("")
    environ = {"TIMBR_WAMP_DATA_DIR": str(home / "file" / "data"), "TIMBR_WAMP_CROSSBAR": str(crossbar)}
    assert "file/data" in sentence(run(home, words, env=environ))


@pytest.mark.parametrize("words", [["up"], ["list"], ["doctor"], ["token", "list"], ["machine", "app.py:m"], ["host"]])
def test_a_user_without_a_home_is_told_what_to_set(home, words):
    environ = {"TIMBR_WAMP_DATA_DIR": "", "TIMBR_WAMP_CONFIG_DIR": ""}
    assert "TIMBR_WAMP_DATA_DIR" in sentence(run(home, words, STRANGER, env=environ))


def test_a_user_without_a_home_needs_the_two_folders_only(home):
    done = run(home, ["machine", "app.py:m", "--offline", "--until-done"], STRANGER, env={"TIMBR_WAMP_CONFIG_DIR": ""})
    assert done.returncode == 0, done.stderr
    assert b"3 processed" in done.stderr
    assert "~nobody_here" in sentence(run(home, ["machine", "~nobody_here/app.py:m"]))


def test_a_byte_order_mark_is_no_part_of_a_file(home):
    (home / "timbr.toml").write_bytes(b"\xef\xbb\xbf[machine]\nname = 'bom'\n[settings]\nport = 1\n")
    done = run(home, ["validate", "."])
    assert (done.returncode, done.stdout) == (0, b""), done
    assert b"no problems" in done.stderr


def test_a_settings_file_that_is_no_file_is_said(home):
    (home / "config" / "config.toml").mkdir(parents=True)
    assert "config.toml" in sentence(run(home, ["token", "list"]))


def test_a_reader_that_leaves_is_no_failure(home):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert run(home, ["doctor", "--json"], stdout=writing).stderr == b""
    finally:
        os.close(writing)
