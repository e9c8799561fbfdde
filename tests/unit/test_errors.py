"""Errors name what there is, what may be meant, and where in the user's own code they arose."""

from __future__ import annotations

import linecache
from typing import Any

import pytest

from timbr_wamp.contract.lookup import near_procedure, needed_role
from timbr_wamp.errors import (
    NoMachine,
    NotAuthorized,
    PrepFailed,
    SlotOutOfRange,
    TimbrError,
    UnknownPlugin,
    UnknownSlot,
    brief_lines,
    did_you_mean,
)

K = "io.timbr.kernel.lab_4f2a9c01d3e7"


@pytest.mark.parametrize(
    ("word", "known", "near"),
    [
        ("conect", ["connect", "list"], "connect"),
        ("DEMO", ["lab", "demo"], "demo"),
        ("Retry", ["BaseEventHandler", "RetryHandler"], "RetryHandler"),
        ("x" * 100_000, ["demo"], None),
        ("", ["demo"], None),
        (None, [], None),
    ],
)
def test_a_near_miss_is_found(word, known, near):
    assert did_you_mean(word, known) == ("" if near is None else f"; did you mean {near!r}?")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (UnknownSlot("cleen", ["clean"]), "no slot named 'cleen'; named slots: clean; did you mean 'clean'?"),
        (UnknownPlugin("g", "x", []), "no plugin 'x' in g; known plugins: none"),
        (NoMachine("k", "pmup", ["pump"]), "kernel k has no machine 'pmup'; its machines: pump; did you mean 'pump'?"),
        (NoMachine("lab", "m"), "kernel lab has no machine 'm'; create one there: m = timbr_wamp.Machine()"),
        (
            NotAuthorized("call", "a.b", "viewer", "admin"),
            "this token's role 'viewer' may not call a.b; that takes a token of the role admin",
        ),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_the_sentence_says_what_there_is(error, text):
    assert str(error) == text


@pytest.mark.parametrize(
    ("action", "uri", "role"),
    [
        ("call", f"{K}.machine.slot_set", "admin"),
        ("call", f"{K}.pump.put", "operator"),
        ("call", f"{K}.info", "viewer"),
        ("call", "io.timbr.kernel.list", "viewer"),
        ("call", "io.timbr.host.lab.start", "admin"),
        ("subscribe", f"{K}.machine", "viewer"),
        ("subscribe", f"{K}.iopub", "admin"),
        ("register", f"{K}.info", "host"),
        ("call", "wamp.session.list", None),
        ("call", f"{K}.machine.nosuch", None),
        ("publish", f"{K}.machine", None),
    ],
)
def test_the_role_that_a_name_takes_comes_from_the_contract(action, uri, role):
    assert needed_role(action, uri) == role


@pytest.mark.parametrize(
    ("uri", "near"),
    [
        (f"{K}.machine.statsu", f"{K}.machine.status"),
        (f"{K}.exceute", f"{K}.execute"),
        ("io.timbr.kernel.lits", "io.timbr.kernel.list"),
        ("io.timbr.host.lab.strat", "io.timbr.host.lab.start"),
        (f"{K}.machine.status", None),
        (f"{K}.machine.zzz", None),
        ("com.example.add", None),
    ],
)
def test_a_procedure_that_is_none_has_a_neighbour(uri, near):
    assert near_procedure(uri) == near


# --- in a notebook -------------------------------------------------------------------------------


def run_cell(text: str, **names: Any) -> TimbrError:
    """Run a text as IPython's kernel runs a cell; return the error that ended it."""
    name = f"/tmp/ipykernel_1/{abs(hash(text))}.py"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    with pytest.raises(TimbrError) as caught:
        exec(compile(text, name, "exec"), dict(names))
    caught.value.__traceback__ = caught.tb.tb_next  # without this function
    return caught.value


def test_an_error_of_a_cell_of_one_line_is_its_sentence():
    error = run_cell("raise E(9, 2)", E=SlotOutOfRange)
    assert error._render_traceback_() == ["SlotOutOfRange: no slot 9: this machine has slots 0 to 1"]


def test_an_error_of_a_longer_cell_is_followed_by_the_lines_that_led_to_it():
    error = run_cell("def fill():\n    raise E(9, 2)\n\nfill()", E=SlotOutOfRange)
    assert error._render_traceback_()[1:] == ["  line 4: fill()", "  line 2, in fill: raise E(9, 2)"]


def test_what_an_error_was_raised_from_is_followed_into_the_users_code():
    text = "def prep():\n    1 / 0\ntry:\n    prep()\nexcept Exception as e:\n    raise E(0, 'Model', str(e)) from e"
    lines = run_cell(text, E=PrepFailed)._render_traceback_()
    assert lines[0] == "PrepFailed: slot 0 was not changed: prep() of Model raised division by zero"
    assert "  line 2, in prep: 1 / 0" in lines


def test_a_magic_is_shown_as_it_was_written():
    text = "x = 1\nget_ipython().run_line_magic('wamp', 'set 9 str')"

    class Shell:
        def run_line_magic(self, name: str, line: str) -> None:
            raise SlotOutOfRange(9, 2)

    error = run_cell(text, get_ipython=Shell)
    assert brief_lines(error, of_cells=True)[1:] == ["  line 2: %wamp set 9 str"]


def test_control_characters_of_other_processes_are_shown_as_text():
    error = UnknownSlot("\x1b]0;title\x07", [])
    error.remote_traceback = '  File "<slot source 0123456789ab>", line 3, in \x1b[31mclean\n'
    assert all(line.isprintable() for line in error._render_traceback_())


REMOTE = """Traceback (most recent call last):
  File "/home/ada/timbr_wamp/machine/slots/functions.py", line 135, in _from_source
    return _last_value(tree, filename, globals_)
           ^^^^^^^^^^^^^
  File "<slot source 59a315338f7a>", line 1, in <module>
    claen
NameError: name 'claen' is not defined

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/venv/lib/python3.11/site-packages/timbr_wamp/plugins.py", line 90, in load
    raise UnknownPlugin(group, name, names(group))
timbr_wamp.errors.InvalidSource: the source text raised NameError
"""


def test_of_another_processs_traceback_the_users_frames_are_shown():
    error = UnknownSlot("a", [])
    error.remote_traceback = REMOTE
    assert error._render_traceback_()[1:] == [
        "",
        "remote traceback:",
        "Traceback (most recent call last):",
        '  File "<slot source 59a315338f7a>", line 1, in <module>',
        "    claen",
        "NameError: name 'claen' is not defined",
    ]
    error.remote_traceback = REMOTE.partition("The above")[2]
    assert len(error._render_traceback_()) == 1


@pytest.mark.parametrize(
    ("file", "shown"),
    [
        ("streams/stream.py", False), ("rows/reading.py", False), ("magic/verbs.py", False), ("consent.py", False),
        ("cli/put.py", False), ("cli/demo/metrics.py", True), ("my_slots.py", True), ("streamsaver/rows.py", True),
    ],
)  # fmt: skip
def test_in_another_processs_traceback_every_part_of_the_package_is_ours_but_the_demos_programs(file, shown):
    error = UnknownSlot("a", [])
    error.remote_traceback = (
        f'Traceback (most recent call last):\n  File "/x/timbr_wamp/{file}", line 3, in f\n    f()\n'
    )
    assert (len(error._render_traceback_()) > 1) is shown
