"""What commands say about words that the shell made of a text without quotes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from timbr_wamp.cli import main
from timbr_wamp.client.functions import is_reference


def said(*words: str) -> str:
    """Return what is said about wrong words, as one line; nothing listens where the router is looked for."""
    done = CliRunner().invoke(main, [*words, "--url", "rs+unix:///nowhere.sock"])
    assert done.exit_code == 2, done.output
    assert "Usage: " in done.output
    return re.sub(r"\s+", " ", done.output)


def is_read(*words: str) -> bool:
    """Return whether the words are right, so that the router is what is missing."""
    done = CliRunner().invoke(main, ["--debug", *words], env={"TIMBR_WAMP_URL": "rs+unix:///nowhere.sock"})
    return done.exit_code == 1


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("set lab 3 lambda x: x**2", "SOURCE has several words: put it in quotes: 'lambda x: x**2'"),
        ("set lab 3 lambda x: -x", "put it in quotes: 'lambda x: -x'"),
        ("set lab -1 lambda x: x --name a", "put it in quotes: 'lambda x: x'"),
        ("set lab lambda x: x", "SLOT is missing; SOURCE has several words: put it in quotes: 'lambda x: x'"),
        ("set lambda x: x", "KERNEL and SLOT are missing; SOURCE has several words"),
        ("exec lab import os", "CODE has several words: put it in quotes: 'import os'"),
        ("put lab {x: 14}", """MESSAGE has several words: put it in single quotes, as in '{"x": 14}'"""),
        ("put lab [1, 2]", "put it in quotes: '[1, 2]'"),
    ],
)
def test_a_text_without_quotes_is_told_with_the_quotes(line: str, hint: str) -> None:
    assert hint in said(*line.split(" "))


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (("put", '{"x": 1}'), """KERNEL is missing before '{"x": 1}'"""),
        (("put", "lab"), "MESSAGE is missing: 'lab' is taken as KERNEL"),
        (("exec", "print(1)"), "KERNEL is missing before 'print(1)'"),
        (("set", "lambda x: x"), "KERNEL and SLOT are missing before 'lambda x: x'"),
        (("set", "3", "lambda x: x"), "KERNEL is missing before 'lambda x: x'"),
        (("set", "lab", "lambda x: x"), "SLOT is missing before 'lambda x: x'"),
        (("set", "lab", "3"), "SOURCE is missing: '3' is taken as SLOT"),
    ],
)
def test_the_argument_that_is_missing_is_named(words: tuple[str, ...], missing: str) -> None:
    assert missing in said(*words)


@pytest.mark.parametrize(
    "words",
    [
        ("put", "lab", "-5"),
        ("put", "lab", "-.5", "--timeout", "1"),
        ("put", "lab", "--", "-5"),
        ("set", "-m", "machine", "lab", "-1", "lambda x: x"),
        ("exec", "lab", "-1"),
        ("policy", "lab", "-1", "drop", "retries=3"),
        ("policy", "-m", "machine", "lab", "-1"),
    ],
)
def test_negative_numbers_are_arguments(words: tuple[str, ...]) -> None:
    assert is_read(*words)


def test_a_number_out_of_range_is_told_as_such() -> None:
    assert "-1 is not in the range x>=0" in said("rollback", "lab", "-1")
    assert "unexpected extra argument" in said("rollback", "lab", "1", "2")


def test_unknown_options_are_refused_and_help_is_given() -> None:
    assert "No such option '--oit'" in said("put", "lab", "5", "--oit", "1")
    assert "No such option" in said("put", "lab", "-x")
    assert CliRunner().invoke(main, ["put", "--help"]).exit_code == 0


def test_a_file_that_is_there_is_not_taken_for_a_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fix.py", "messages.jsonl"):
        Path(name).touch()
    assert "SOURCE is the name of a file; for what is in it, write @fix.py" in said("set", "lab", "4", "fix.py")
    assert "CODE is the name of a file; for what is in it, write @fix.py" in said("exec", "lab", "fix.py")
    assert "write - < messages.jsonl" in said("put", "lab", "messages.jsonl")
    assert is_read("set", "lab", "4", "@fix.py")
    assert is_read("set", "lab", "4", "other.py")


def test_a_reference_is_told_from_source_text() -> None:
    assert [is_reference(text) for text in ("math:sqrt", " os.path:join\n")] == [True, True]
    assert [is_reference(text) for text in ("lambda:x", "lambda x:x", "math.sqrt", "a:1")] == [False] * 4
