"""The installed command, as a user types it: a whole node comes up, is used, and ends in order."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_home import COMMAND_LIMIT_S, UP_LIMIT_S, Home, first_line, wait_for
from wait_kit import BUSY_CELL

import timbr_wamp
from timbr_wamp.cli import main
from timbr_wamp.errors import NoRouter
from timbr_wamp.router import free_port as pick_free_port

pytestmark = pytest.mark.integration

MACHINE = """
from timbr_wamp import Machine

m = Machine()
m.set(0, lambda x: x * 2, name="double")
m.start()
"""


@pytest.fixture(autouse=True)
def _nothing_is_left_behind() -> None:
    """Replace the general check: kernels of a home come and go below us; `Home` itself looks at what is left."""


@pytest.fixture(scope="module")
def home(crossbar: Path) -> Iterator[Home]:
    """A home with a node that is up, and in it the kernel ``lab`` with a machine that doubles."""
    made = Home(crossbar)
    try:
        (made.folder / "machine.py").write_text(MACHINE)
        with made.up("--stop-kernels"):
            made.run("kernel", "start", "--name", "lab", "--startup", "machine.py")
            yield made
        assert made.processes() == [], "--stop-kernels leaves nothing"
    finally:
        made.close()


@pytest.fixture
def empty_home(crossbar: Path) -> Iterator[Home]:
    """A home where nothing runs yet."""
    made = Home(crossbar)
    yield made
    made.close()


# --- arguments -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["no_such_command"],
        ["put"],
        ["put", "kernel"],
        ["exec", "kernel"],
        ["bridge"],
        ["bridge", "file.json", "--kernel-id", "lab_4f2a9c01d3e7"],
        ["up", "--port", "0"],
        ["up", "--port", "many"],
        ["demo", "--source", "lottery"],
        ["token", "create", "--name", "ada"],
        ["token", "create", "--name", "ada", "--role", "king"],
        ["status", "--no-such-option"],
        ["policy", "lab"],
        ["rollback", "lab", "first"],
        ["wait", "--then", ""],
        ["wait", "--timeout", "-1"],
        ["errors", "--count", "0"],
        ["progress", "--interval", "0"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_status_2_and_a_usage_line(words: list[str]) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_without_a_router_a_sentence_says_what_to_do() -> None:
    result = CliRunner().invoke(main, ["list"], env={"TIMBR_WAMP_RUNTIME_DIR": "/tmp/nothing_runs_here"})
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("timbr-wamp: no router")
    assert "timbr-wamp up" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [["--debug", "list"], ["list", "--debug"], ["kernel", "--debug", "list", "--json"]])
def test_debug_shows_the_traceback_wherever_it_stands(words: list[str]) -> None:
    result = CliRunner().invoke(main, words, env={"TIMBR_WAMP_RUNTIME_DIR": "/tmp/nothing_runs_here"})
    assert isinstance(result.exception, NoRouter)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "no command 'lst'; did you mean 'list'?"),
        (["restart"], "did you mean 'kernel restart'?"),
        (["start"], "'kernel start'"),
        (["frobnicate"], "no command 'frobnicate'"),
        (["list", "--jsn"], "--json"),
    ],
)
def test_a_mistyped_command_is_answered_with_what_may_be_meant(words: list[str], said: str) -> None:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_wrong_setting_is_named_with_where_it_came_from() -> None:
    result = CliRunner().invoke(main, ["doctor"], env={"TIMBR_WAMP_PORT": "eighty"})
    assert result.exit_code == 1
    assert "TIMBR_WAMP_PORT" in result.stderr


def test_a_token_among_the_arguments_is_warned_of() -> None:
    environ = {"TIMBR_WAMP_RUNTIME_DIR": "/tmp/nothing_runs_here"}
    result = CliRunner().invoke(main, ["bridge", "--token", "ada.secret", "file.json"], env=environ)
    assert "TIMBR_WAMP_TOKEN" in result.stderr
    assert "secret" not in result.stderr.replace("ada.secret", "") or "ada.secret" not in result.stderr


def test_the_old_name_of_bridge_is_installed() -> None:
    script = Path(sys.executable).with_name("wampify")
    done = subprocess.run([script, "--help"], capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: wampify [OPTIONS] FILE\n")
    assert all(option in done.stdout for option in ("--wamp-url", "--wamp-realm", "--token", "--shutdown-interval"))
    environ = {**os.environ, "TIMBR_WAMP_RUNTIME_DIR": "/tmp/nothing_runs_here"}
    typed = subprocess.run([script, "no.json"], env=environ, capture_output=True, text=True, timeout=COMMAND_LIMIT_S)
    assert typed.returncode == 1
    assert typed.stderr.startswith("timbr-wamp: connection file no.json: no such file")
    assert typed.stderr.count("\n") == 1


# --- a node that is up -----------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_the_page_answers_and_its_token_is_in_the_fragment(home: Home) -> None:
    status = home.json("router", "status")
    with urllib.request.urlopen(status["page_url"], timeout=10) as answer:
        assert answer.status == 200
        assert b"<!doctype html>" in answer.read().lower()
    with urllib.request.urlopen(f"{status['page_url']}node", timeout=10) as answer:
        assert json.load(answer) == {"realm": "timbr"}  # what the page joins
        assert answer.headers["Access-Control-Allow-Origin"] is None


def test_list_names_the_kernel_and_its_machine(home: Home) -> None:
    (kernel,) = home.json("list")
    assert kernel["name"] == "lab"
    assert kernel["host"] == "lab"
    assert [machine["name"] for machine in kernel["machines"]] == ["machine"]
    assert "lab" in home.run("list")


def test_a_realm_that_the_router_does_not_have_is_an_error_that_names_its_own(home: Home) -> None:
    for words in (["list"], ["put", "lab", "1"], ["kernel", "stop", "lab"]):
        assert "no realm 'nowhere'; realms: timbr" in home.run(*words, "--realm", "nowhere", status=1)


def test_exec_prints_what_the_code_prints(home: Home) -> None:
    assert home.run("exec", "lab", "print('to stdout'); 6 * 7") == "to stdout\n42\n"


def test_exec_of_code_that_raises_ends_with_status_1(home: Home) -> None:
    assert "ZeroDivisionError" in home.run("exec", "lab", "1 / 0", status=1)


def test_exec_shows_texts_that_utf_8_cannot_carry_by_their_escapes(home: Home) -> None:
    failed = home.run("exec", "lab", r'raise ValueError("\ud83d")', status=1)
    assert "Traceback" in failed
    assert r"ValueError: \ud83d" in failed
    assert home.run("exec", "lab", r'print("\ud83d"); b"\xff".decode(errors="surrogateescape")').split() == [
        r"\ud83d",
        r"'\udcff'",
    ]


def test_exec_reads_a_file_and_stdin(home: Home) -> None:
    (home.folder / "code.py").write_text("print('from a file')")
    assert home.run("exec", "lab", "@code.py") == "from a file\n"
    assert "cannot read none.py: No such file or directory\n" in home.run("exec", "lab", "@none.py", status=2)
    assert home.run("exec", "lab", "-", stdin="print('from stdin')") == "from stdin\n"


def test_exec_for_programs(home: Home) -> None:
    *messages, reply = map(json.loads, home.run("exec", "lab", "--json", "print(1)").splitlines())
    assert reply["status"] == "ok"
    assert [m["content"]["text"] for m in messages if m["msg_type"] == "stream"] == ["1\n"]


def test_put_and_tail(home: Home) -> None:
    before = home.json("status", "lab")["last_seq"]
    oid = home.run("put", "lab", "21").strip()
    records = home.run("tail", "lab", "--all", "--count", str(before + 1), "--json").splitlines()
    newest = json.loads(records[-1])
    assert newest["oid"] == oid
    assert newest["values"]["in"] == 21
    assert newest["values"]["f0"] == 42


def test_put_reads_lines_from_stdin(home: Home) -> None:
    before = home.json("status", "lab")["put"]
    oids = home.run("put", "lab", "-", stdin="".join(f"{number}\n" for number in range(300))).split()
    assert len(set(oids)) == 300
    assert home.json("status", "lab")["put"] == before + 300


def test_put_takes_python_literals_too(home: Home) -> None:
    home.run("put", "lab", "{'n': None, 'ok': True}")
    assert home.run("put", "lab", "-", stdin="[True, null]\n").split()


def test_put_of_what_is_not_json_is_refused(home: Home) -> None:
    assert "not JSON" in home.run("put", "lab", "{broken", status=2)
    assert "usage" in home.run("put", "lab", "-", "--oid", "0" * 24, stdin="1\n", status=2).lower()


@pytest.mark.parametrize("text", ["NaN", "-Infinity", '{"a": [NaN]}', "1e999", "[" * 100_000, r'"\ud83d"'])
def test_put_refuses_what_would_change_on_its_way(home: Home, text: str) -> None:
    assert "MESSAGE" in home.run("put", "lab", text, status=2)


#: Lines that `put` refuses, with a part of the reason.
REFUSED_LINES = {
    b"foo": "is not JSON: Expecting value",
    b'"caf\xe9"': "is not UTF-8",
    b"NaN": "NaN is not a JSON value",
    b"1e999": "out of range",
    b"[" * 100_000: "nested too deeply",
    b"[" * 300 + b"]" * 300: "cannot be put",
    b"9" * 40: "cannot be put",
    b'"' + b"x" * 2_000_000 + b'"': "exceed the limit of 1,048,576",
    b'"' + b"x" * 9_000_000 + b'"': "is longer than",
    rb'"\ud83d"': "surrogate",
}


def test_put_takes_each_line_of_stdin_for_itself(home: Home) -> None:
    before = home.json("status", "lab")["put"]
    lines = b"".join(line + b'\n"good"\n \n' for line in REFUSED_LINES)
    done = subprocess.run(
        [sys.executable, "-m", "timbr_wamp", "put", "lab", "-"],
        env=home.environ,
        input=b"\xef\xbb\xbf1\r\n\r\n" + lines + b'{"a": 1}',
        capture_output=True,
        timeout=COMMAND_LIMIT_S,
    )
    *said, count = done.stderr.decode().splitlines()
    assert [line.split()[1:3] for line in said] == [["line", str(3 + 3 * n)] for n in range(len(REFUSED_LINES))]
    assert [reason for line, reason in zip(said, REFUSED_LINES.values(), strict=True) if reason not in line] == []
    put = len(REFUSED_LINES) + 2
    assert count == f"timbr-wamp: {put} put, {len(REFUSED_LINES)} refused"
    assert (done.returncode, len(done.stdout.split())) == (1, put)
    assert home.json("status", "lab")["put"] == before + put


def test_put_of_long_lines_needs_no_thought_about_the_size_of_a_call(home: Home) -> None:
    lines = "".join(f"{json.dumps([0.5] * 20_000)}\n" for _ in range(30))
    assert len(home.run("put", "lab", "-", stdin=lines).split()) == 30


def test_put_strict_stops_at_the_first_line_that_it_refuses(home: Home) -> None:
    before = home.json("status", "lab")["put"]
    said = home.run("put", "lab", "-", "--strict", stdin="1\n\n2\nfoo\n4\n", status=1)
    assert "line 4 of stdin is not JSON" in said
    assert said.endswith("timbr-wamp: 2 put, 1 refused\n")
    assert home.json("status", "lab")["put"] == before + 2


def test_put_queues_lines_as_they_arrive_and_says_at_ctrl_c_how_many(home: Home) -> None:
    putting = home.popen("put", "lab", "-", "--json", stdin=subprocess.PIPE)
    assert putting.stdin is not None
    for line in ("1\n", "foo\n2\n"):
        putting.stdin.write(line)
        putting.stdin.flush()
        assert len(json.loads(first_line(putting, COMMAND_LIMIT_S))["oid"]) == 24
    putting.send_signal(signal.SIGINT)
    _, stderr = putting.communicate(timeout=COMMAND_LIMIT_S)
    assert stderr.endswith("timbr-wamp: 2 put, 1 refused\n")
    assert putting.returncode == 130


def test_put_waits_while_the_queue_is_full(home: Home) -> None:
    home.run("exec", "lab", "narrow = Machine(1, bufsize=2, name='narrow')")
    words = ("put", "lab", "-", "--machine", "narrow")
    said = home.run(*words, "--timeout", "0", stdin="1\n2\n3\n", status=1)
    assert "2 put, 0 refused" in said
    assert "the queue is full (2 messages) and the machine is idle" in said
    reading, writing = os.pipe()
    putting = home.popen(*words, stdin=reading)
    os.close(reading)
    with open(writing, "w") as lines:
        lines.write("3\n4\n5\n")
    assert putting.stderr is not None
    assert "waiting for space" in putting.stderr.readline()
    home.run("exec", "lab", "narrow.start()")
    _, stderr = putting.communicate(timeout=COMMAND_LIMIT_S)
    assert (putting.returncode, stderr) == (0, "timbr-wamp: 3 put, 0 refused\n")
    assert home.json("status", "lab", "--machine", "narrow")["put"] == 5
    home.run("exec", "lab", "narrow.close(); del narrow")


def test_tail_of_one_slot_prints_its_values(home: Home) -> None:
    home.run("put", "lab", "5")
    assert home.run("tail", "lab", "--all", "--slot", "double", "--idle", "1").split()[-1] == "10"
    for name in ("f0", "0"):
        assert json.loads(home.run("tail", "lab", "--all", "--slot", name, "--count", "1")) is not None
    assert "no slot 99" in home.run("tail", "lab", "--slot", "f99", status=1)
    assert "no slot named" in home.run("tail", "lab", "--slot", "treble", status=1)


def test_a_slot_is_set_while_the_machine_runs(home: Home) -> None:
    home.run("set", "lab", "1", "lambda x: x + 1", "--name", "more")
    slots = home.json("slots", "lab")
    assert slots[1]["name"] == "more"
    assert slots[1]["source"] == "lambda x: x + 1"
    assert "lambda x: x + 1" in home.run("slots", "lab")
    (home.folder / "slot.py").write_text("def less(x):\n    return x - 1\n")
    assert home.json("set", "lab", "more", "@slot.py")["change"]
    assert "less" in home.json("slots", "lab")[1]["function"]
    home.run("set", "lab", "-7", "math:sqrt")
    assert home.json("slots", "lab")[1]["function"] == "math.sqrt"
    home.run("set", "lab", "1", "")
    assert home.json("slots", "lab")[1]["identity"]


@pytest.mark.parametrize(
    ("slot", "source", "said"),
    [("99", "lambda x: x", "no slot 99"), ("0", "def broken(", "does not compile"), ("0", "3", "no function")],
)
def test_a_slot_that_cannot_be_set_is_reported_in_one_sentence(home: Home, slot: str, source: str, said: str) -> None:
    assert said in home.run("set", "lab", slot, source, status=1)


def test_a_policy_is_set_shown_and_taken_away(home: Home) -> None:
    assert home.json("policy", "lab", "f1", "drop", "retries=2")["change"]
    assert home.run("policy", "lab", "1") == "retry 2, then drop\n"
    policy = home.json("policy", "lab", "1")
    assert (policy["on_error"], policy["retries"]) == ("drop", 2)
    assert home.json("slots", "lab")[1]["policy"]["on_error"] == "drop"
    home.run("policy", "lab", "1", "none")
    assert home.run("policy", "lab", "1") == "record\n"
    home.run("policy", "lab", "machine", "dead_letter")
    assert home.json("status", "lab")["on_error"]["on_error"] == "dead_letter"
    assert "dead_letter" in home.run("status", "lab")
    home.run("policy", "lab", "machine", "record")
    assert "one of record, default" in home.run("policy", "lab", "1", "forget", status=2)
    assert "retries" in home.run("policy", "lab", "1", "retries=many", status=2)


def test_a_handler_is_chosen_with_its_options(home: Home) -> None:
    assert home.run("handler", "lab", "RetryHandler", "retries=1", "backoff_s=0") == "RetryHandler\n"
    assert home.json("handler", "lab") == {"handler": "RetryHandler"}
    assert "RetryHandler" in home.run("status", "lab")
    home.run("handler", "lab", "BaseEventHandler")
    assert "RetryHandler" in home.run("handler", "lab", "NoSuch", status=1)
    assert "name=value" in home.run("handler", "lab", "RetryHandler", "often", status=2)


def test_export_names_what_it_leaves_out_and_exports_the_rest(home: Home) -> None:
    home.run("exec", "lab", "import math\ndef rooted(x):\n    return math.sqrt(abs(x))\nm[3] = rooted")
    said = home.run("export", "--kernel", "lab", "-o", "exported.toml", status=1)
    assert "slot 3 cannot be saved: its text uses math from outside of it" in said
    assert "lambda x: x * 2" in (home.folder / "exported.toml").read_text()
    home.run("set", "lab", "3", "")
    assert 'name = "double"' in home.run("export", "--kernel", "lab")


def test_failures_are_shown_in_groups_retried_and_rolled_back(home: Home) -> None:
    good = home.json("revisions", "lab")[-1]["number"]
    home.run("set", "lab", "2", "def fragile(x): raise LookupError('not there')", "--policy", "record retries=1")
    assert home.json("slots", "lab")[2]["policy"]["retries"] == 1
    oids = [home.run("put", "lab", "31").strip() for _ in range(2)]
    home.run("wait", "lab", "--timeout", "20")
    (group,) = [each for each in home.json("errors", "lab") if each["exc_class"] == "LookupError"]
    assert (group["count"], group["open"], group["last_oid"]) == (2, 2, oids[-1])
    assert "LookupError:" in home.run("errors", "lab")
    rows = [each for each in home.json("errors", "lab", "--rows") if each["exc_class"] == "LookupError"]
    assert [row["oid"] for row in rows] == oids
    assert oids[0] in home.run("errors", "lab", "--rows")
    assert "rollback to" in home.json("rollback", "lab", str(good))["change"]
    assert "rollback to" in home.run("revisions", "lab")
    assert home.run("retry", "lab", *oids).split() == oids
    home.run("wait", "lab", "--timeout", "20")
    (group,) = [each for each in home.json("errors", "lab") if each["exc_class"] == "LookupError"]
    assert (group["open"], group["resolved"]) == (0, True)
    assert "no revision" in home.run("rollback", "lab", "9999", status=1)


def test_a_change_is_tried_committed_compared_and_its_messages_are_looked_up_and_retried(home: Home) -> None:
    before = home.json("set", "lab", "2", "lambda x: [].pop()", "--reason", "a first try")["number"]
    oids = [home.run("put", "lab", str(n)).strip() for n in (40, 41)]
    home.run("wait", "lab", "--timeout", "20")
    attempt = home.json("lookup", "lab", oids[0])["attempts"][0]
    assert (attempt["state"], attempt["revision"], attempt["slots"][2]["kind"]) == ("errored", before, "error")
    home.run("trial", "lab", "2", "lambda x: 7", "--last", "2", "--commit", "--reason", "seven is enough")
    newest = home.json("revisions", "lab")[-1]
    assert (newest["number"], newest["reason"]) == (before + 1, "seven is enough")
    worse = home.run("trial", "lab", "2", "lambda x: 1 // 0", "--sample", "40", "--commit", status=1)
    assert "1 message would fail that did not fail before; it was not set" in worse
    assert "+lambda x: 7" in home.run("compare", "lab", str(before), str(before + 1), "--last", "2")
    assert home.json("replay", "lab", *oids, "--trial", "--revision", str(before))["tried"] == 2
    assert "need --trial" in home.run("replay", "lab", *oids, "--revision", "1", status=2)
    assert "in one way" in home.run("replay", "lab", status=2)
    assert home.run("replay", "lab", oids[1]).split() == [oids[1]]
    home.run("wait", "lab", "--timeout", "20")
    assert home.run("retry", "lab", "--group", "2:IndexError", "--canary", "1", "--timeout-s", "20").split() == [
        oids[0]
    ]
    home.run("wait", "lab", "--timeout", "20")
    assert "attempt 2: processed" in home.run("lookup", "lab", oids[0])
    assert "no message" in home.run("lookup", "lab", "0" * 24, status=1)


def test_the_graph_is_a_list_or_mermaid(home: Home) -> None:
    assert "double" in home.run("graph", "lab")
    assert "in --> f0" in home.run("graph", "lab", "--mermaid")
    assert home.json("graph", "lab")["nodes"][1]["needs"] == ["in"]


PACED = """
import threading
pace = threading.Semaphore(0)
def paced():
    for number in range(30):
        assert pace.acquire(timeout=30)
        yield number
m.set_source(paced, total=30)
"""


def test_progress_comes_in_lines_and_wait_runs_what_follows(home: Home) -> None:
    home.run("exec", "lab", PACED)
    following = home.popen("progress", "lab", "--json", "--interval", "0.1")
    first = json.loads(first_line(following, COMMAND_LIMIT_S))
    assert (first["done"], first["total"], first["complete"]) == (0, 30, False)
    said = home.run("wait", "lab", "--timeout", "0.2", "--then", "echo never", status=1)
    assert said.startswith("timbr-wamp: not done: the machine is running")
    home.run("exec", "lab", "pace.release(10)")
    stdout = following.stdout
    assert stdout is not None
    ten = next(each for each in map(json.loads, stdout) if each["done"] == 10)  # it comes while the source goes on
    assert not ten["complete"]
    home.run("exec", "lab", "pace.release(20)")
    rest, stderr = following.communicate(timeout=COMMAND_LIMIT_S)
    assert following.returncode == 0, stderr
    last = json.loads(rest.splitlines()[-1])
    assert (last["done"], last["percentage"], last["complete"]) == (30, 100.0, True)
    assert home.run("wait", "lab", "--timeout", "20", "--progress", "--then", "echo 'all done'") == "all done\n"
    assert home.run("wait", "lab", "--then", "sh -c 'exit 7'", status=7) == ""
    assert "cannot be run" in home.run("wait", "lab", "--then", "no_such_program_here", status=1)
    assert "30" in home.run("progress", "lab", "--once")
    home.run("exec", "lab", "del m.source")


def test_ctrl_c_ends_the_display_and_leaves_the_machine_running(home: Home) -> None:
    home.run("exec", "lab", PACED)
    following = home.popen("progress", "lab", "--json")
    first_line(following, COMMAND_LIMIT_S)
    following.send_signal(signal.SIGINT)
    _, stderr = following.communicate(timeout=COMMAND_LIMIT_S)
    assert (following.returncode, stderr) == (0, "")
    waiting = home.popen("wait", "lab", "--progress", "--then", "echo never")
    wait_for(lambda: home.json("status", "lab")["state"] == "running")
    waiting.send_signal(signal.SIGINT)
    stdout, stderr = waiting.communicate(timeout=COMMAND_LIMIT_S)
    assert (waiting.returncode, stdout) == (130, ""), stderr
    assert "Traceback" not in stderr
    assert home.json("status", "lab")["state"] == "running"
    home.run("exec", "lab", "pace.release(30); m.wait(20); del m.source")


def test_status_for_people_and_programs(home: Home) -> None:
    assert home.json("status", "lab")["state"] == "running"
    assert "running" in home.run("status")  # the only kernel


def test_watch_gives_one_status_a_line(home: Home) -> None:
    watching = home.popen("watch", "lab", "--json")
    try:
        assert json.loads(first_line(watching, COMMAND_LIMIT_S))["name"] == "machine"
    finally:
        watching.send_signal(signal.SIGINT)
        _, stderr = watching.communicate(timeout=COMMAND_LIMIT_S)
    assert "Traceback" not in stderr


def test_an_unknown_kernel_is_named_with_those_there_are(home: Home) -> None:
    said = home.run("status", "no_such_kernel", status=1)
    assert "no kernel 'no_such_kernel'" in said
    assert "lab" in said


def test_an_unknown_machine_is_named(home: Home) -> None:
    assert "no_such_machine" in home.run("status", "lab", "--machine", "no_such_machine", status=1)


def test_kernel_restart_runs_the_startup_file_again(home: Home) -> None:
    before = home.json("list")[0]
    after = home.json("kernel", "restart", "lab")
    assert after["kernel_id"] == before["kernel_id"]
    assert after["pid"] != before["pid"]
    assert home.run("exec", "lab", "m.name") == "'machine'\n"


def test_a_startup_file_that_fails_is_told_with_its_line_and_mended_by_a_restart(home: Home) -> None:
    startup = home.folder / "bad.py"
    startup.write_text("import json\nimport no_such_library\n")
    said = home.run("kernel", "start", "--name", "bad", "--startup", "bad.py", status=1)
    try:
        reason = f"startup file {startup}, line 2, failed: ModuleNotFoundError: No module named 'no_such_library'"
        (kernel,) = [one for one in home.json("list") if one["name"] == "bad"]
        assert said.startswith(f"timbr-wamp: kernel {kernel['kernel_id']} runs, but its {reason}")
        assert (kernel["state"], kernel["reason"]) == ("idle", reason)
        assert "line2,failed" in "".join(home.run("list").split()), "in several lines of its column"
        assert reason in home.run("status", "bad", status=1)
        startup.write_text("import timbr_wamp\nm = timbr_wamp.Machine(1)\n")
        assert home.json("kernel", "restart", "bad")["reason"] is None
        assert home.json("status", "bad")["state"] == "idle"
        startup.write_text("1 +\n")
        assert f"{startup}, line 1, failed: SyntaxError" in home.run("kernel", "restart", "bad", status=1)
    finally:
        home.run("kernel", "stop", "bad")


def test_a_startup_file_is_the_callers_and_refused_when_there_is_none(home: Home) -> None:
    said = home.run("kernel", "start", "--startup", "nofile.py", status=1)
    assert said == f"timbr-wamp: the kernel did not start: no such startup file: {home.folder / 'nofile.py'}\n"
    assert [one["name"] for one in home.json("list")] == ["lab"]


def test_a_name_of_a_kernel_is_taken_once_and_has_the_form_of_other_names(home: Home) -> None:
    (kernel,) = home.json("list")
    taken = home.run("kernel", "start", "--name", "lab", status=1)
    assert f"a kernel named 'lab' runs already: {kernel['kernel_id']}" in taken
    (home.folder / "lab.json").write_text("{}")
    for refused in (
        home.run("kernel", "start", "--name", "My Lab", status=1),
        home.run("token", "create", "--role", "viewer", "--name", "My Lab", status=1),
        home.run("machine", "x.py:m", "--offline", "--name", "My Lab", status=1),
        home.run("bridge", "lab.json", "--name", "My Lab", status=1),
    ):
        assert "such as my_lab" in refused
    assert len(home.json("list")) == 1


def test_a_restart_says_what_became_of_the_machines(home: Home) -> None:
    home.run("kernel", "start", "--name", "plain")
    home.run("exec", "plain", "import timbr_wamp\nm = timbr_wamp.Machine(1)")
    wait_for(lambda: [one["machines"] for one in home.json("list") if one["name"] == "plain"] != [[]])
    done = home.popen("kernel", "restart", "plain")
    _, said = done.communicate(timeout=COMMAND_LIMIT_S)
    assert "; machine is gone, with all that cells had made" in said
    done = home.popen("kernel", "restart", "lab")
    _, said = done.communicate(timeout=COMMAND_LIMIT_S)
    assert "; its startup file made machine" in said
    home.run("kernel", "stop", "plain")
    assert [one["name"] for one in home.json("list")] == ["lab"]


def test_kernel_interrupt_ends_a_cell(home: Home) -> None:
    waiting = home.popen("exec", "lab", f"print('busy', flush=True)\n{BUSY_CELL}")
    assert first_line(waiting, COMMAND_LIMIT_S) == "busy\n"
    home.run("kernel", "interrupt", "lab")
    _, stderr = waiting.communicate(timeout=COMMAND_LIMIT_S)
    assert waiting.returncode == 1
    assert "KeyboardInterrupt" in stderr


def test_ctrl_c_in_exec_interrupts_the_code(home: Home) -> None:
    waiting = home.popen("exec", "lab", f"print('busy', flush=True)\n{BUSY_CELL}")
    assert first_line(waiting, COMMAND_LIMIT_S) == "busy\n"
    waiting.send_signal(signal.SIGINT)
    waiting.communicate(timeout=COMMAND_LIMIT_S)
    assert waiting.returncode == 130
    assert home.run("exec", "lab", "1 + 1") == "2\n"


def subscribers_of(home: Home, topic: str) -> int:
    """Return how many follow a topic of the machine of ``lab``; the bridge itself follows none."""
    kernel_id = next(each["kernel_id"] for each in home.json("list") if each["name"] == "lab")
    with timbr_wamp.connect(*router_of(home)) as client:
        found = client.call("wamp.subscription.match", f"io.timbr.kernel.{kernel_id}.machine.{topic}")
        return sum(client.call("wamp.subscription.count_subscribers", each) for each in found or [])


def runtime_file_token(home: Home) -> str:
    """The secret of the local administrator's token."""
    (path,) = Path(home.environ["TIMBR_WAMP_DATA_DIR"]).rglob("local-tokens.json")
    return str(json.loads(path.read_text())["admin"].partition(".")[2])


def router_of(home: Home) -> tuple[str, str]:
    """Return the router's URL and the local administrator's token."""
    return home.json("router", "status")["url"], f"admin.{runtime_file_token(home)}"


def test_tokens_are_made_listed_and_revoked(home: Home) -> None:
    token = home.run("token", "create", "--role", "viewer", "--name", "ada").strip()
    assert {"name": "ada", "role": "viewer"}.items() <= next(
        t for t in home.json("token", "list") if t["name"] == "ada"
    ).items()
    assert token not in home.run("token", "list")
    url = home.json("router", "status")["url"]
    as_viewer = {"TIMBR_WAMP_TOKEN": token, "TIMBR_WAMP_URL": url}
    assert "lab" in home.run("list", **as_viewer)
    assert "may not" in home.run("set", "lab", "0", "lambda x: x", status=1, **as_viewer)
    assert "exists" in home.run("token", "create", "--role", "viewer", "--name", "ada", status=1)
    tail = home.popen("tail", "lab", **as_viewer)
    wait_for(lambda: subscribers_of(home, "records"))
    home.run("token", "revoke", "ada")
    _, said = tail.communicate(timeout=COMMAND_LIMIT_S)
    assert (tail.returncode, said.count("was revoked"), said.count("\n")) == (1, 1, 1)
    rejected = home.run("list", status=1, **as_viewer)
    assert (rejected.count("rejected"), rejected.count("\n")) == (1, 1)
    rejected = home.run("host", status=1, TIMBR_WAMP_RUNTIME_DIR=str(home.folder / "other"), **as_viewer)
    assert (rejected.count("rejected"), rejected.count("\n")) == (1, 1)
    assert "no token named" in home.run("token", "revoke", "ada", status=1)


def test_doctor_finds_nothing_wrong(home: Home) -> None:
    findings = {finding["what"]: finding for finding in home.json("doctor")}
    assert {finding["verdict"] for finding in findings.values()} <= {"ok", "note"}
    assert findings["connection"]["verdict"] == "ok"
    assert findings["connection"]["text"].endswith(", 1 kernel")
    assert findings["host"]["verdict"] == "ok"


def test_doctor_says_what_to_do_about_a_folder_that_others_can_open(home: Home) -> None:
    folder = home.folder / "open"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    done = CliRunner().invoke(main, ["doctor"], env={**home.environ, "TIMBR_WAMP_RUNTIME_DIR": str(folder)})
    assert done.exit_code == 1
    assert "chmod 700" in done.stdout


def test_a_second_up_is_refused_with_a_sentence(home: Home) -> None:
    said = home.run("up", "--port", str(pick_free_port()), status=1)
    assert said.startswith("timbr-wamp: timbr-wamp already runs")


# --- coming up and ending --------------------------------------------------------------------


@pytest.mark.timeout(180)
def test_a_host_or_router_that_dies_is_started_again_and_kernels_come_back(empty_home: Home) -> None:
    process = empty_home.popen("up", "--json", "--port", str(pick_free_port()))
    printed = json.loads(first_line(process, UP_LIMIT_S))
    kernel_id = empty_home.run("kernel", "start", "--name", "lasting").strip()
    kernel, bridge = (runtime_file(empty_home, f"{kind}-{kernel_id}")["pid"] for kind in ("kernel", "bridge"))
    host = host_of(empty_home)
    os.kill(host["pid"], signal.SIGKILL)
    wait_for(lambda: (found := host_of(empty_home)) and found["pid"] != host["pid"])
    # kernel and bridge are those of before
    assert [runtime_file(empty_home, f"{kind}-{kernel_id}")["pid"] for kind in ("kernel", "bridge")] == [kernel, bridge]
    assert empty_home.run("exec", "lasting", "kept = 42") == ""
    os.kill(printed["pid"], signal.SIGKILL)
    wait_for(lambda: router_runs(empty_home) and empty_home.json("router", "status")["pid"] != printed["pid"])
    (after,) = wait_for(lambda: empty_home.json("list"))
    assert (after["kernel_id"], after["pid"]) == (kernel_id, kernel)
    assert empty_home.run("exec", "lasting", "kept") == "42\n"
    empty_home.run("kernel", "stop", "lasting")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
    assert process.returncode == 0, stderr
    assert "the host ended by itself; restarting it" in stderr
    assert empty_home.processes() == []


@pytest.mark.timeout(180)
def test_kernels_outlive_up_and_what_a_killed_one_left_is_taken_over_and_ended_by_router_stop(empty_home: Home) -> None:
    with empty_home.up():
        kernel_id = empty_home.run("kernel", "start", "--name", "lasting").strip()
        empty_home.run("exec", "lasting", "kept = 42")
        pid = empty_home.json("list")[0]["pid"]
    assert [process.pid for process in empty_home.processes()] == [pid]
    first = empty_home.popen("up", "--json", "--port", str(pick_free_port()))
    printed = json.loads(first_line(first, UP_LIMIT_S))
    (kernel,) = wait_for(lambda: empty_home.json("list"))
    assert (kernel["kernel_id"], kernel["pid"]) == (kernel_id, pid)
    assert empty_home.run("exec", "lasting", "kept") == "42\n"
    host = host_of(empty_home)
    first.kill()
    first.communicate(timeout=COMMAND_LIMIT_S)
    second = empty_home.popen("up", "--json", "--stop-kernels")
    again = json.loads(first_line(second, UP_LIMIT_S))
    assert (again["pid"], again["url"]) == (printed["pid"], printed["url"])
    assert host_of(empty_home)["pid"] == host["pid"]
    assert empty_home.json("list")[0]["kernel_id"] == kernel_id
    assert "router stop" in empty_home.run("up", status=1)  # this one lives
    empty_home.run("router", "stop")
    _, stderr = second.communicate(timeout=COMMAND_LIMIT_S)
    assert second.returncode == 0, stderr
    assert "taking over the router" in stderr
    assert empty_home.processes() == []


@pytest.mark.timeout(180)
def test_up_leaves_the_host_of_another_router_alone(home: Home, empty_home: Home) -> None:
    """Two routers, one runtime folder: a computer works for a router elsewhere, and `up` is tried on it."""
    elsewhere = runtime_file(home, "node")
    token = json.loads(home.run("token", "create", "--role", "host", "--name", "mill", "--json"))["token"]
    foreign = empty_home.popen(
        "host", TIMBR_WAMP_URL=elsewhere["unix_url"], TIMBR_WAMP_TOKEN=token, TIMBR_WAMP_HOST="mill"
    )
    try:
        wait_for(lambda: host_of(empty_home, elsewhere["unix_url"]))
        theirs = home.run("kernel", "start", "--host", "mill", "--name", "theirs").strip()
        before = [runtime_file(empty_home, f"{kind}-{theirs}")["pid"] for kind in ("kernel", "bridge")]
        with empty_home.up("--stop-kernels"):
            empty_home.run("kernel", "start", "--name", "ours")
            assert [kernel["name"] for kernel in empty_home.json("list")] == ["ours"]
        assert foreign.poll() is None
        assert [runtime_file(empty_home, f"{kind}-{theirs}")["pid"] for kind in ("kernel", "bridge")] == before
        assert home.run("exec", "theirs", "6 * 7") == "42\n"
        home.run("kernel", "stop", "theirs")
    finally:
        foreign.terminate()
        foreign.communicate(timeout=COMMAND_LIMIT_S)
    assert empty_home.processes() == []


@pytest.mark.timeout(120)
def test_a_busy_port_is_named_the_next_free_one_taken_on_request_and_sigterm_ends_up_as_ctrl_c_does(
    empty_home: Home,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port} is in use" in empty_home.run("up", "--port", port, status=1)
        process = empty_home.popen("up", "--json", "--next-free-port", "--port", port)
        printed = json.loads(first_line(process, UP_LIMIT_S))
        assert f":{port}/" not in printed["page_url"]
    process.terminate()
    _, stderr = process.communicate(timeout=COMMAND_LIMIT_S)
    assert process.returncode == 0, stderr
    assert empty_home.processes() == []


@pytest.mark.timeout(120)
def test_the_demo_processes_and_ends_with_its_kernel(empty_home: Home) -> None:  # the other source: test_wheel.py
    with empty_home.up(command="demo") as printed:
        assert printed["kernels"] == ["demo"]
        assert "#token=" in printed["page_url"]
        records = empty_home.run("tail", "demo", "--all", "--json", "--count", "25").splitlines()
        slots = [slot["name"] for slot in empty_home.json("slots", "demo")]
    assert [json.loads(record)["seq"] for record in records] == list(range(1, 26))
    assert slots[:3] == ["clean", "rolling", "anomaly"]
    assert empty_home.processes() == []


def runtime_file(home: Home, name: str) -> dict[str, Any]:
    return json.loads((home.folder / "run" / f"{name}.json").read_text())


def host_of(home: Home, router: str | None = None) -> dict[str, Any] | None:
    """Return the runtime file of the host on a router, by default on the home's own."""
    router = router or runtime_file(home, "node")["unix_url"]
    files = [json.loads(path.read_text()) for path in (home.folder / "run").glob("host-*.json")]
    return next((file for file in files if file["router"] == router), None)


def router_runs(home: Home) -> bool:
    """Tell whether the router's runtime file names a living one."""
    done = subprocess.run(
        [sys.executable, "-m", "timbr_wamp", "router", "status"], env=home.environ, capture_output=True
    )
    return done.returncode == 0
