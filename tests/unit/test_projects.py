"""Projects: `timbr.toml` is read strictly, makes a machine, and a machine is saved as one."""

from __future__ import annotations

import functools
import math
import runpy
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w

from timbr_wamp.cli.up import startup_file
from timbr_wamp.contract import Policy, SlotInfo
from timbr_wamp.errors import CannotSave, InvalidArgument, InvalidProject
from timbr_wamp.machine import Machine
from timbr_wamp.projects import (
    Project,
    describe_machine,
    describe_project,
    differences,
    exported,
    load_project,
    save,
    toml,
    write,
)
from timbr_wamp.projects.difference import as_text
from timbr_wamp.projects.source_texts import free_names, lambda_text, reference_of
from timbr_wamp.settings import load_settings, project_file

FULL = '''
[machine]
name = "weather"
stages = 4
bufsize = 32
executor = "inline"
concurrency = 2
on_error = {retries = 2, backoff_s = 0.5}

[[slots]]
slot = 0
name = "double"
policy = "drop"
source = """
def double(x):
    return 2 * x
"""

[[slots]]
slot = 2
function = "math:sqrt"
policy = {on_error = "default", default = -1.0}

[source]
source = "range(3)"
total = 3
policy = "sample"
sample_every = 2
on_exhausted = "stop"

[settings]
port = 9000
'''


@pytest.fixture(autouse=True)
def _paths_and_modules_as_before() -> Iterator[None]:
    """Projects put their folders on the path and their modules into Python."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("project_"):
            del sys.modules[name]


def project(folder: Path, text: str) -> Project:
    (folder / "timbr.toml").write_text(text)
    return load_project(folder)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(InvalidProject) as caught:
        project(folder, text)
    return caught.value.problems


# --- reading ---------------------------------------------------------------------------------


def test_a_project_makes_its_machine_whole(tmp_path):
    with project(tmp_path, FULL).machine() as machine:
        status, slots = machine.status, machine.slots
        assert (machine.name, len(machine), status.queue_capacity, status.concurrency) == ("weather", 4, 32, 2)
        assert status.on_error == Policy(retries=2, backoff_s=0.5)
        assert [slot.name for slot in slots] == ["double", None, None, None]
        assert slots[0].policy == Policy(on_error="drop")
        assert slots[2].policy == Policy(on_error="default", default=-1.0)
        assert (slots[0].author, slots[0].source.strip().splitlines()[0]) == ("timbr.toml", "def double(x):")
        assert (status.source.total, status.source.options.policy, status.source.options.sample_every) == (
            3,
            "sample",
            2,
        )
        assert list(machine(8))[1:] == [8, 16, 16, 4.0, 4.0]
        assert machine.status.state == "idle"


def test_an_empty_project_makes_a_default_machine(tmp_path):
    with project(tmp_path, "").machine() as machine, Machine(serve=False) as usual:
        assert len(machine) == len(usual)
        assert machine.status.queue_capacity == usual.status.queue_capacity
        assert machine.status.on_error == usual.status.on_error


def test_functions_of_the_projects_own_folder_are_found(tmp_path):
    (tmp_path / "project_own.py").write_text(
        "def treble(x):\n    return 3 * x\n\ndef source():\n    yield from (1, 2)\n"
    )
    text = '[[slots]]\nslot = 0\nfunction = "project_own:treble"\n[source]\nfunction = "project_own:source"\n'
    with project(tmp_path, text).machine() as machine:
        machine.start()
        assert machine.wait(timeout=10.0)
        assert [record[2] for record in machine.recent()] == [3, 6]


def test_a_module_of_the_same_name_from_elsewhere_is_not_taken_for_the_projects(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "project_same.py").write_text(f"def f(x):\n    return {name!r}\n")
        (tmp_path / name / "timbr.toml").write_text('[[slots]]\nslot = 0\nfunction = "project_same:f"\n')
    assert load_project(tmp_path / "one").check() == []
    (problem,) = load_project(tmp_path / "two").check()
    assert "is already imported from" in problem
    assert str(tmp_path / "one") in problem


def test_all_problems_of_form_are_reported_at_once(tmp_path):
    found = problems(
        tmp_path,
        """
[machine]
stage = 3
stages = "four"
on_error = "explode"
[[slots]]
name = "no number"
source = "1"
[[slots]]
slot = 99
source = "float"
function = "no reference"
policy = {retry = 3, backoff_s = "long"}
[[slots]]
slot = 1
[source]
policy = "hope"
restarts = -1
[settings]
prot = 1
[extras]
""",
    )
    report = "\n".join(found)
    for words in (
        "extras: unknown",
        "machine.stage: unknown; known keys: name, stages",
        "did you mean 'stages'?",
        "machine.stages: 'four' is not a whole number",
        "machine.on_error: 'explode' is not one of record, default",
        "slots[0].slot: missing",
        "slots[1].policy.retry: unknown; known keys: on_error, retries",
        "did you mean 'retries'?",
        "slots[1].policy.backoff_s: 'long' is not a number",
        "slots[1]: exactly one of `source`",
        "slots[1].function: 'no reference' is not a reference; write module:name",
        "slots[2]: exactly one of `source`",
        "slot 99: out of range; with 8 stages",
        "source: exactly one of `source`",
        "source.policy: 'hope' is not one of wait, drop_new, drop_old, sample",
        "source.restarts: -1 is not a whole number from 0",
        "settings: setting prot",
    ):
        assert words in report
    assert len(found) == 15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[machine", "not readable as TOML"),
        ("slots = 3", "write [[slots]]"),
        ("machine = 3", "machine: 3 is not a table"),
        ("settings = 3", "is not a table; write [settings]"),
        ('[machine]\nname = "state"', "a kernel's own name on the wire"),
        ('[machine]\nname = "No Name"', "is not a valid name"),
        ("[machine]\nbufsize = 0", "machine.bufsize: 0 is not a whole number of at least 1"),
        ("[machine]\nconcurrency = true", "machine.concurrency: True is not a whole number"),
        ("[machine]\non_error = 3", "machine.on_error: 3 is neither a table nor one of"),
        ("[machine]\non_error = {retries = -1}", "retries: -1 is not between"),
        ('[[slots]]\nslot = 0\nsource = "int"\nname = "a b"', "is not an identifier"),
        (
            '[[slots]]\nslot = 0\nsource = "int"\n[[slots]]\nslot = 0\nsource = "int"',
            "defined more than once",
        ),
        (
            '[[slots]]\nslot = 0\nname = "a"\nsource = "int"\n[[slots]]\nslot = 1\nname = "a"\nsource = "int"',
            "used by more than one slot",
        ),
    ],
)
def test_each_mistake_is_reported_with_its_key(tmp_path, text, words):
    assert words in "\n".join(problems(tmp_path, text))


def test_a_missing_file_is_reported(tmp_path):
    with pytest.raises(InvalidProject, match="cannot be read: No such file"):
        load_project(tmp_path / "nothing")


def test_check_reports_all_that_cannot_be_loaded_and_starts_nothing(tmp_path):
    text = """
[[slots]]
slot = 0
name = "first"
source = "def f(x) return x"
[[slots]]
slot = 1
function = "project_none:f"
[[slots]]
slot = 2
source = "3"
[[slots]]
slot = 3
source = "float"
[source]
source = "1 / 0"
"""
    given = project(tmp_path, text)
    found = given.check()
    assert [line.partition(":")[0] for line in found] == ["slot 0 (first)", "slot 1", "slot 2", "source"]
    assert "does not compile" in found[0]
    assert "ZeroDivisionError" in found[3]
    with pytest.raises(InvalidProject, match="4 problems"):
        given.machine()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[machine]\nexecutor = "thread"', "machine.executor: "),
        ("[source]\nsource = '3'", "source: "),
        ("[source]\nsource = '\"text\"'", "source: "),
    ],
)
def test_check_finds_invalid_executors_and_sources(tmp_path, text, words):
    given = project(tmp_path, text)
    assert [line[: len(words)] for line in given.check()] == [words]
    with pytest.raises(InvalidProject):
        given.machine()


SLOT_0 = '[[slots]]\nslot = 0\nsource = "float"\n'


@pytest.mark.parametrize(
    "text",
    [
        "[machine]\nconcurrency = 20000",
        "[machine]\nstages = 65",
        "[source]\nsource = 'range(3)'\nbackoff_s = 0",
        "[source]\nsource = 'range(3)'\nbackoff_max_s = 1e300",
        "[source]\nsource = 'range(3)'\nidle_timeout_s = nan",
        "[source]\nsource = 'range(3)'\nrestarts = 9_007_199_254_740_993",
        "[source]\nsource = 'iter([1])'\nrestarts = 1",
        "[source]\nsource = '{1: 2}'",
        SLOT_0 + "policy = {timeout_s = 1.0}",
        "[machine]\non_error = {timeout_s = 1.0}\n" + SLOT_0,
        '[[slots]]\nslot = 0\nsource = "lambda a, b, c: a"',
        SLOT_0 + 'name = "double"\n[[slots]]\nslot = 1\nsource = "float"\nname = "double"',
    ],
)
def test_what_the_machine_refuses_is_a_problem_of_the_project(tmp_path, text):
    try:
        found = project(tmp_path, text).check()
    except InvalidProject as error:
        found = error.problems
    assert len(found) == 1


def test_a_source_of_any_kind_that_the_machine_takes_has_no_problem(tmp_path):
    for source in (
        "[1]",
        "iter([1])",
        "range",
        "lambda: [1]",
        "(n for n in [])",
        "type('S', (), {'__getitem__': list})()",
    ):
        given = project(tmp_path, f'[source]\nsource = "{source}"')
        assert given.check() == []


def test_a_machine_that_cannot_be_made_leaves_nothing_behind(tmp_path):
    (tmp_path / "project_prep.py").write_text(
        "class Fails:\n    def prep(self):\n        raise OSError('no line')\n"
        "    def step(self, x):\n        return x\n"
        "SLOT = Fails()\n"
    )
    given = project(tmp_path, '[[slots]]\nslot = 0\nfunction = "project_prep:SLOT"\n')
    assert given.check() == [], "validating opens nothing"
    with pytest.raises(Exception, match="no line"):
        given.machine()


# --- which file ------------------------------------------------------------------------------


def test_the_environment_names_the_project(tmp_path, monkeypatch):
    monkeypatch.delenv("TIMBR_WAMP_PROJECT", raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "timbr.toml").write_text("[settings]\nport = 9123\n")
    monkeypatch.chdir(tmp_path)
    assert project_file() == tmp_path / "timbr.toml"
    for value in (elsewhere, elsewhere / "timbr.toml"):
        monkeypatch.setenv("TIMBR_PROJECT", str(value))
        assert load_project().path == elsewhere / "timbr.toml"
        assert load_settings().port == 9123
    assert load_settings(folder=tmp_path).port == 8080, "an argument wins"
    monkeypatch.setenv("TIMBR_WAMP_PROJECT", str(tmp_path))
    assert project_file() == tmp_path / "timbr.toml", "our own name wins over the ancestor's"


# --- saving ----------------------------------------------------------------------------------


def helper(x: float) -> float:
    return x + OFFSET


OFFSET = 10


def test_a_saved_machine_is_made_again_the_same(tmp_path, machines):
    scale = 3
    machine = machines(5, on_error={"retries": 1})
    machine.set(0, lambda x: x * scale, name="scaled", policy="drop")
    machine[1] = math.sqrt
    machine[2] = float
    machine[3] = lambda x: math.floor(x) + OFFSET
    machine[4] = helper
    file = save(machine, tmp_path)
    with load_project(tmp_path).machine() as again:
        for message in (12, 27, 300):
            assert list(again(message))[1:] == list(machine(message))[1:]
        assert [slot.name for slot in again.slots] == [slot.name for slot in machine.slots]
        assert again.slots[0].policy == Policy(on_error="drop")
        assert again.status.on_error == Policy(retries=1)
        assert toml(exported(again.status, again.slots)).count("[[slots]]") == 5
    assert file == tmp_path / "timbr.toml"


def test_a_machine_that_a_project_made_is_saved_with_its_source_and_references(tmp_path):
    with project(tmp_path, FULL).machine() as machine:
        machine.set(3, lambda x: -x, name="minus")
        save(machine, tmp_path / "again")
    before, after = load_project(tmp_path).content, load_project(tmp_path / "again").content
    assert after.source == before.source
    assert after.machine == before.machine
    assert after.slots[:2] == before.slots
    assert after.slots[2].source == "lambda x: -x\n"


def test_an_existing_file_is_replaced_only_on_request_and_keeps_source_and_settings(tmp_path, machines):
    before = project(tmp_path, FULL)
    machine = machines(2)
    machine[0] = float
    with pytest.raises(InvalidArgument, match="already exists"):
        save(machine, tmp_path)
    assert load_project(tmp_path).content == before.content
    save(machine, tmp_path, overwrite=True)
    after = load_project(tmp_path).content
    assert (after.source, after.settings) == (before.content.source, {"port": 9000})
    assert [(slot.slot, slot.function) for slot in after.slots] == [(0, "builtins:float")]


def test_a_broken_file_is_not_replaced(tmp_path, machines):
    (tmp_path / "timbr.toml").write_text("[machine]\nstage = 3\n")
    with pytest.raises(InvalidArgument, match="has problems"):
        save(machines(1), tmp_path, overwrite=True)
    assert (tmp_path / "timbr.toml").read_text() == "[machine]\nstage = 3\n"


class Model:
    def __call__(self, x: float) -> float:
        return x


def _with_an_object() -> Any:
    model = Model()
    return lambda x: model(x)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (_with_an_object(), "refers to 'model', a Model"),
        (functools.partial(pow, 2), "it is a partial that is not a variable"),
        (Model(), "it is a Model that is not a variable"),
        (eval("lambda x: x"), "its source text is not available"),
    ],
)
def test_what_cannot_be_written_names_its_slot_and_why(tmp_path, machines, function, words):
    machine = machines(2)
    machine.set(1, function, name="odd")
    with pytest.raises(CannotSave, match=r"slot 1 \(odd\) cannot be saved") as caught:
        save(machine, tmp_path)
    assert words in str(caught.value)
    assert not (tmp_path / "timbr.toml").exists()


def test_a_default_that_toml_cannot_say_is_refused(tmp_path, machines):
    machine = machines(1)
    machine.set(0, float, policy={"on_error": "default", "default": [None]})
    with pytest.raises(CannotSave, match="it cannot be expressed in TOML"):
        save(machine, tmp_path)


MODEL = Model()


def test_references_name_only_what_is_found_by_them():
    assert reference_of(math.sqrt) == "math:sqrt"
    assert reference_of(helper) == f"{__name__}:helper"
    assert reference_of(MODEL) == f"{__name__}:MODEL"
    assert reference_of(Model()) is None
    assert reference_of(lambda x: x) is None


def test_a_lambda_is_found_in_the_statement_around_it():
    assert lambda_text("m[0] = lambda x: x + 1") == "lambda x: x + 1"
    assert lambda_text("    m.set(0, lambda x: x + 1, name='a')") == "lambda x: x + 1"
    assert lambda_text("m[0:2] = [lambda x: 1, lambda x: 2]") is None
    code = (lambda x: 2).__code__
    assert lambda_text("m[0:2] = [lambda x: 1, lambda x: 2]", code) == "lambda x: 2"


def test_free_names_are_those_that_a_text_does_not_define():
    assert free_names("import math\ndef f(x, y=k):\n    z = x\n    return [math.pi * q for q in z]\n") == {"k"}
    assert free_names("class A:\n    def step(self, x):\n        return np.abs(x)\n") == {"np"}


# --- from a description ----------------------------------------------------------------------


def slot_source(**keywords: Any) -> SlotInfo:
    return SlotInfo(slot=0, identity=False, kind="function", **keywords)


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (slot_source(source="def f(x):\n    return x\n", function="f"), {"source": "def f(x):\n    return x\n"}),
        (slot_source(source="m[0] = lambda x: x + 1\n", function="<lambda>"), {"source": "lambda x: x + 1\n"}),
        (slot_source(source="ours.steps:clean", function="ours.steps.clean"), {"function": "ours.steps:clean"}),
        (
            slot_source(source="def f(x):\n    return np.abs(x)\n", function="ours.steps.f"),
            {"function": "ours.steps:f"},
        ),
    ],
)
def test_a_remote_slot_is_exported_from_its_description(info, expected, machines):
    (slot,) = exported(machines(1).status, [info])["slots"]
    assert {key: value for key, value in slot.items() if key != "slot"} == expected


@pytest.mark.parametrize(
    "info",
    [
        slot_source(source="def f(x):\n    return np.abs(x)\n", function="f"),
        slot_source(source=None, function="<lambda>"),
        slot_source(source="def f(x):\n    return (x", function="f"),
    ],
)
def test_a_remote_slot_with_too_little_description_is_not_exported(info, machines):
    with pytest.raises(CannotSave, match="slot 0"):
        exported(machines(1).status, [info])


@pytest.mark.parametrize(
    ("info", "said"),
    [
        (slot_source(source="def f(x):\n    return np.abs(x)\n", function="f"), "uses np from outside"),
        (slot_source(source="class A:\n    def __call__(self, x):\n        return x\n", function="A"), "an object, of"),
        (SlotInfo(slot=0, identity=False, kind="object", function="Counter"), "an object, of the class Counter"),
        (slot_source(source=None, function="<lambda>"), "not known"),
        (slot_source(source="def scaled(k, x):\n    return k * x\n", function="scaled", values=1), "functools.partial"),
        (slot_source(source="def step(self, x):\n    return x\n", function="Counter.step", values=1), "a method"),
    ],
)
def test_a_part_that_cannot_be_exported_is_named_and_the_others_are_exported(info, said, machines):
    good = SlotInfo(slot=1, identity=False, kind="function", source="lambda x: x", function="<lambda>")
    unwritable = Policy(on_error="default", default=[None])
    with_policy = msgspec.structs.replace(good, slot=2, policy=unwritable)
    status = msgspec.structs.replace(machines(3).status, on_error=unwritable)
    left_out: list[CannotSave] = []
    tables = exported(status, [info, good, with_policy], left_out)
    assert [slot["slot"] for slot in tables["slots"]] == [1, 2]
    assert [error.part for error in left_out] == ["slot 0", "the policy of slot 2", "the machine's policy"]
    assert said in str(left_out[0])
    assert tomllib.loads(toml(tables))["slots"][1]["source"] == "lambda x: x\n"


@pytest.mark.parametrize(("demo", "source"), [("metrics", "readings"), ("earthquakes", "replay")])
def test_the_demos_machine_is_exported_and_made_again(demo, source, tmp_path):
    names = runpy.run_path(str(startup_file(demo)))
    with names["m"] as machine:
        write(exported(machine.status, machine.slots), tmp_path)
    with load_project(tmp_path).machine() as again:
        assert [slot.name for slot in again.slots][:3] == ["clean", "rolling", "anomaly"]
        assert isinstance(again(next(names[source]())).values[4], str)


# --- comparing -------------------------------------------------------------------------------


def test_a_machine_does_not_differ_from_the_project_that_made_it(tmp_path):
    given = project(tmp_path, FULL)
    with given.machine() as machine:
        assert differences(describe_project(given), describe_machine(machine.status, machine.slots)) == []


def test_live_changes_are_reported_by_setting_and_slot(tmp_path):
    given = project(tmp_path, FULL)
    with given.machine() as machine:
        machine.set(0, lambda x: 5 * x, policy="stop")
        machine.set(1, float, name="number")
        del machine[2]
        machine.configure(bufsize=64)
        machine.set_policy(None, "record")
        before, after = describe_project(given), describe_machine(machine.status, machine.slots)
        found = differences(before, after)
    report = [(one.slot, one.what, one.change) for one in found]
    assert report == [
        (None, "bufsize", "changed"),
        (None, "on_error", "changed"),
        (0, "function", "changed"),
        (0, "policy", "changed"),
        (1, "function", "added"),
        (1, "name", "added"),
        (2, "function", "removed"),
        (2, "policy", "removed"),
    ]
    text = as_text(found, before, after)
    assert "-bufsize = 32\n+bufsize = 64" in text
    assert "--- timbr.toml slot 0 (double)\n+++ live slot 0 (double)\n" in text
    assert "-def double(x):\n-    return 2 * x\n+lambda x: 5 * x" in text
    assert "+++ /dev/null" in text


def test_what_is_written_is_read_again(tmp_path, machines):
    tables = {"machine": {"stages": 2}, "slots": [{"slot": 0, "source": 'lambda x: """a\\n" + x'}]}
    file = write({**tables, "slots": [{"slot": 0, "source": "lambda x: '\\\\' + x"}]}, tmp_path / "deep" / "timbr.toml")
    assert load_project(file).content.slots[0].source == "lambda x: '\\\\' + x"
    assert tomli_w.dumps(tables, multiline_strings=True)


# --- the example -----------------------------------------------------------------------------


def test_the_example_runs_to_its_end_on_real_data():
    with load_project(Path(__file__).parents[2] / "examples/projects/earthquakes").machine() as machine:
        machine.start()
        assert machine.wait(timeout=30.0)
        status = machine.status
        assert (status.processed + status.dropped, status.errored) == (1707, 0)
        assert status.dropped == machine.error_groups[0].count == 99
    sys.modules.pop("app")
