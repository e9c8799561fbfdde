"""A line after ``%wamp`` becomes a verb and arguments, or a usage line; never a SystemExit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from IPython.core.error import UsageError

from timbr_wamp.contract import Policy
from timbr_wamp.magic.commands import REPLACED, VERBS
from timbr_wamp.magic.parser import HelpRequested, overview, parse

# fmt: off
ASKED_FOR = {
    "token", "connect", "disconnect", "list", "select", "status", "subscribe", "unsubscribe", "interrupt", "restart",
    "slots", "set", "put", "start", "pause", "stop", "records", "errors",
}
OF_JUNO = {
    "token", "connect", "list", "select", "status", "execute", "subscribe", "start_bridge", "stop_bridge",
}
# fmt: on


def test_every_verb_that_was_promised_is_there():
    assert set(VERBS) >= ASKED_FOR
    assert set(VERBS) | set(REPLACED) >= OF_JUNO


@pytest.mark.parametrize("line", ["set lambda x: x", "set lambda: 3", "set --name a def f(x): return x"])
def test_a_slot_that_is_missing_before_the_text_is_named(line):
    with pytest.raises(UsageError, match=r"argument slot: is missing: '(lambda|lambda:|def)' begins the Python text"):
        parse(line)


def test_words_and_options_become_arguments():
    command = parse("connect ws://127.0.0.1:8080/ws --token ada.secret --reconnect")
    assert command.verb == "connect"
    assert command.arguments == {
        "url": "ws://127.0.0.1:8080/ws",
        "token": "ada.secret",
        "realm": None,
        "reconnect": True,
    }


def test_a_token_is_not_in_the_repr():
    assert "secret" not in repr(parse("connect --token ada.secret"))


@pytest.mark.parametrize(
    ("line", "arguments", "code"),
    [
        ("set 0 lambda x: x**2", {"slot": 0, "name": None, "policy": None, "reason": None}, "lambda x: x**2"),
        (
            'set clean --name tidy lambda x: x["a b"]',
            {"slot": "clean", "name": "tidy", "policy": None, "reason": None},
            'lambda x: x["a b"]',
        ),
        ("set --name=tidy 1 f", {"slot": 1, "name": "tidy", "policy": None, "reason": None}, "f"),
        (
            "set 1 --policy drop,retries=3 lambda x: x",
            {"slot": 1, "name": None, "policy": Policy(on_error="drop", retries=3), "reason": None},
            "lambda x: x",
        ),
        ("put {'a': \"it's\"}", {"oid": None}, "{'a': \"it's\"}"),
        ("put -5", {"oid": None}, "-5"),
        ("put --oid 65f0c0ffee65f0c0ffee65f0 x", {"oid": "65f0c0ffee65f0c0ffee65f0"}, "x"),
        ("execute --kernel lab print('--kernel')", {"kernel": "lab", "timeout_s": None}, "print('--kernel')"),
        ("set 0", {"slot": 0, "name": None, "policy": None, "reason": None}, ""),
    ],
)
def test_python_text_needs_no_quoting(line, arguments, code):
    command = parse(line)
    assert (command.arguments, command.code) == (arguments, code)


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("connect   # the router; else: %wamp token", "connect"),
        ("list  # kernels", "list"),
        ("# nothing to do", ""),
        ("set 0 clean  # it's ours", "set 0 clean"),
        ("set 0 lambda x: x['#']  # what is under '#'", "set 0 lambda x: x['#']"),
        ("set 0  # the cell", "set 0"),
        ("set 0 --name a # the cell", "set 0 --name a"),
        ('put {"#": "# no"}# yes', 'put {"#": "# no"}'),
        ("put # nothing", "put"),
        ("records 5 # rows", "records 5"),
        ("policy clean drop retries=3 # thrice", "policy clean drop retries=3"),
        ("--kernel lab  # there", "--kernel lab"),
        ("execute # nothing", "execute"),
    ],
)
def test_a_comment_ends_the_line_of_every_verb(line, same):
    commented, plain = parse(line, cell=True), parse(same, cell=True)
    assert (commented, commented.code) == (plain, plain.code)


@pytest.mark.parametrize("verb", [verb for verb in VERBS.values() if verb.name != "help"], ids=lambda verb: verb.name)
def test_no_verb_takes_a_comment_for_an_argument(verb):
    words = " ".join([verb.name, *("1" for argument in verb.positionals if argument.required)])
    assert parse(f"{words} # a b --c 'd") == parse(words)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("execute !curl http://x/#part # all of it", "!curl http://x/#part # all of it"),
        ("put 'an open # quote", "'an open # quote"),
        ("set 0 --policy 'drop retries=3' f", "f"),
        ("set 0 --policy \"default='a b'\" f", "f"),
    ],
)
def test_what_is_no_comment_stays(line, code):
    assert parse(line).code == code


def test_a_fragment_of_an_address_is_no_comment():
    assert parse("connect ws://h:1/ws#x --token a.b").arguments["url"] == "ws://h:1/ws#x"


def test_a_mistyped_option_gets_a_suggestion():
    with pytest.raises(UsageError, match="did you mean '--token'"):
        parse("connect --toke x")


def test_a_single_word_after_subscribe_is_the_callback():
    assert parse("subscribe show").arguments == {"topic": "machine", "callback": "show"}
    assert parse("subscribe records show").arguments == {"topic": "records", "callback": "show"}


def test_a_cell_without_a_verb_is_run():
    assert parse("", cell=True).verb == "execute"
    assert parse("--kernel lab", cell=True).arguments["kernel"] == "lab"
    assert parse("set 0", cell=True).verb == "set"


def test_a_cell_for_a_prefix_is_run_there_as_juno_did():
    command = parse("io.timbr.kernel.lab_4f2a9c01d3e7", cell=True)
    assert (command.verb, command.arguments["kernel"]) == ("execute", "io.timbr.kernel.lab_4f2a9c01d3e7")


def test_only_words_are_expanded():
    assert parse("select $k", expand=lambda text: text.replace("$k", "lab")).arguments["kernel"] == "lab"
    assert parse("put {1: '$k'}", expand=lambda text: text.replace("$k", "lab")).code == "{1: '$k'}"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "conect",
        "select a b",
        "records many",
        "records 0",
        "stop --timeout-s never",
        "connect --toke x",
        "connect --token",
        "connect 'open",
        "set",
        "subscribe",
        "rollback",
        "help nothing",
    ],
)
def test_bad_arguments_give_a_usage_line(line):
    with pytest.raises(UsageError, match=r"usage: %wamp "):
        parse(line)


def test_a_mistyped_verb_gets_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'connect'"):
        parse("conect")


@pytest.mark.parametrize("line", ["-h", "--help", "help", "set -h", "set 0 --help", "help set"])
def test_help_is_an_answer_and_no_exit(line):
    with pytest.raises(HelpRequested, match="assign a function to a slot"):
        parse(line)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_stands_in_the_overview(verb):
    with pytest.raises(HelpRequested, match=f"usage: %wamp {verb}"):
        parse(f"{verb} -h")
    assert f"%wamp {verb} " in overview()


def test_every_verb_and_option_is_documented():
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "reference/magics.md").read_text(encoding="utf-8")
    for verb in VERBS.values():
        assert re.search(rf"^### `%wamp {verb.name}\b", page, re.MULTILINE), verb.name
        section = re.split(r"^#+ ", page.split(f"### `%wamp {verb.name}", 1)[1], flags=re.MULTILINE)[0]
        for argument in verb.arguments:
            assert argument.name in section, (verb.name, argument.name)
    for old in REPLACED:
        assert old in (docs / "how-to/from-juno-magic.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("line", "arguments"),
    [
        ("policy clean drop retries=3", {"slot": "clean", "words": ["drop", "retries=3"]}),
        ("policy machine", {"slot": "machine", "words": []}),
        ("handler RetryHandler retries=2", {"name": "RetryHandler", "options": ["retries=2"]}),
        ("handler", {"name": None, "options": []}),
        ("retry 65f0 65f1", {"oids": ["65f0", "65f1"], "group": None, "canary": None}),
        ("tap f1 20", {"label": "f1", "n": 20}),
        ("progress --wait --timeout-s 5", {"wait": True, "timeout_s": 5.0}),
    ],
)
def test_the_last_argument_may_be_many_words(line, arguments):
    assert parse(line).arguments == arguments


@pytest.mark.parametrize("line", ["policy", "set 0 --policy nonsense f", "set 0 --policy retries=-1 f", "tap in 0"])
def test_invalid_input_gets_a_usage_line(line):
    with pytest.raises(UsageError, match="usage: %wamp"):
        parse(line)
