"""Tab after ``%wamp``: what is offered, and that IPython's own completer takes it."""

from __future__ import annotations

import atexit
import re
import threading
from collections.abc import Iterator

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from timbr_wamp.magic.commands import TOPICS, VERBS
from timbr_wamp.magic.completion import callables, candidates, matcher_for

OFFERS = {
    "kernel": lambda: ["demo", "lab_4f2a9c01d3e7", "demo"],
    "slot": lambda: ["0", "clean"],
    "name": lambda: ["show"],
}


@pytest.fixture
def shell() -> Iterator[InteractiveShell]:
    """A shell of the test's own, without a history file."""
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    yield shell
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)


def completed(shell: InteractiveShell, text: str) -> set[str]:
    """Return the whole words that the shell's completer offers at the end of ``text``."""
    prefix = re.search(r"\S*$", text)[0]
    with provisionalcompleter():
        found = list(shell.Completer.completions(text, len(text)))
    return {prefix[: completion.start - len(text) + len(prefix)] + completion.text for completion in found}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", list(VERBS)),
        ("sel", ["select"]),
        ("select ", ["demo", "lab_4f2a9c01d3e7"]),
        ("select lab", ["lab_4f2a9c01d3e7"]),
        ("execute --kernel d", ["demo"]),
        ("connect --re", ["--realm", "--reconnect"]),
        ("connect --reconnect --re", ["--realm"]),
        ("connect --token ", []),
        ("set ", ["0", "clean"]),
        ("set --name tidy c", ["clean"]),
        ("delete cl", ["clean"]),
        ("subscribe ", [*TOPICS, "show"]),
        ("subscribe records ", ["show"]),
        ("unsubscribe st", ["status", "state"]),
        ("help ro", ["rollback"]),
        ("stop ", []),
        ("nonsense ", []),
    ],
)
def test_what_may_stand_there_is_offered(line, expected):
    assert candidates(line, OFFERS) == expected


@pytest.mark.parametrize("line", ["set 0 ", "set 0 flo", "put ", "call x.", "execute --kernel demo imp"])
def test_python_text_is_left_to_pythons_completer(line):
    assert candidates(line, OFFERS) is None


def test_without_an_answer_nothing_is_offered():
    assert candidates("select ", {}) == []


def test_callables_are_the_notebooks_own():
    assert callables({"show": print, "_hidden": print, "number": 3}) == ["show"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("%wamp sel", {"select"}),
        ("%juno sel", {"select"}),
        ("rows = %wamp rec", {"records"}),
        ("x = 1\n%wamp select lab", {"lab_4f2a9c01d3e7"}),
        ("%wamp connect --re", {"--realm", "--reconnect"}),
        ("%%wamp set cl", {"clean"}),
    ],
)
def test_ipython_offers_it_and_nothing_else(shell, text, expected):
    shell.Completer.custom_matchers.append(matcher_for(OFFERS))
    assert completed(shell, text) == expected


def test_other_lines_are_not_ours(shell):
    def fail() -> list[str]:
        raise AssertionError("asked for")

    shell.user_ns["selection"] = 1
    shell.Completer.custom_matchers.append(matcher_for({"kernel": fail}))
    assert "selection" in completed(shell, "selec")


def test_loading_twice_is_loading_once_and_unloading_takes_all_away(shell):
    from timbr_wamp.magic import load_ipython_extension, unload_ipython_extension

    matchers = list(shell.Completer.custom_matchers)
    load_ipython_extension(shell)
    wamp = shell.find_line_magic("wamp")
    load_ipython_extension(shell)
    assert shell.find_line_magic("wamp") is wamp
    assert shell.find_cell_magic("wamp") == wamp
    assert shell.find_line_magic("juno") == shell.find_cell_magic("juno") != wamp
    assert len(shell.Completer.custom_matchers) == len(matchers) + 1
    unload_ipython_extension(shell)
    unload_ipython_extension(shell)
    assert shell.Completer.custom_matchers == matchers
    assert not any(shell.find_magic(name, kind) for name in ("wamp", "juno") for kind in ("line", "cell"))


def test_a_slow_router_delays_tab_shortly_and_later_tabs_have_its_answer():
    from timbr_wamp.magic.tab_list import TabList

    answer, fetched = threading.Event(), threading.Event()

    def fetch() -> list[str]:
        assert answer.wait(5.0)
        fetched.set()
        return ["demo"]

    tab_list = TabList(fetch)
    assert tab_list() == []
    answer.set()
    assert fetched.wait(5.0)
    assert tab_list() == ["demo"]


def test_a_router_that_fails_gives_nothing_to_offer():
    from timbr_wamp.errors import NotConnected
    from timbr_wamp.magic.tab_list import TabList

    def fetch() -> list[str]:
        raise NotConnected("ws://nowhere", "gone")

    assert TabList(fetch)() == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("policy ", ["0", "clean", "machine"]),
        ("policy clean d", ["default", "drop", "dead_letter", "default="]),
        ("policy clean drop re", ["record", "retries="]),
        ("set 0 --policy no", ["none"]),
        ("handler Retry", ["RetryHandler"]),
        ("handler RetryHandler r", []),
        ("tap c", ["clean"]),
    ],
)
def test_policies_and_handlers_are_offered(line, expected):
    assert candidates(line, {"slot": lambda: ["0", "clean"]}) == expected
