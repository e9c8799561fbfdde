"""Slot functions arrive as source text, reference or cloudpickle, and can be read by people."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import cloudpickle
import pytest

from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument, InvalidSource, PythonMismatch
from timbr_wamp.machine import Machine
from timbr_wamp.machine.slots.functions import PYTHON, function_name, load, source_text


def source(text: str | None, namespace: dict[str, object] | None = None):
    return load(FunctionRef(kind="source", text=text), namespace)


@pytest.mark.parametrize(
    "text",
    [
        "lambda x: x + 1",
        "  lambda x: x + 1  ",
        "def f(x):\n    return x + 1",
        "    def f(x):\n        return x + 1\n",
        "import math\ndef f(x):\n    return int(math.fabs(x)) + 1",
        "f = lambda x: x + 1",
        "one = 1\nlambda x: x + one",
        "class Add:\n    def __call__(self, x):\n        return x + 1\nAdd()",
        "from functools import partial\npartial(lambda a, x: x + a, 1)",
        "# a comment\n\nlambda x: x + 1\n\n",
        "f: object = lambda x: x + 1",
        "import functools\n@functools.cache\ndef f(x):\n    return x + 1",
    ],
)
def test_source_text_may_be_a_lambda_a_def_an_expression_or_an_assignment(text):
    assert source(text)(1) == 2


@pytest.mark.parametrize(
    ("text", "word", "line"),
    [
        ("def f(x:\n  return x", "does not compile", 1),
        ("lambda x: x\n\nlambda x x", "does not compile", 3),
        ("x = 1\ny = nonsense\nlambda x: x", "NameError", 2),
        ("def f(x):\n    return x\nfor i in range(2):\n    pass", "last statement", 3),
        ("import math", "last statement", 1),
        ("# nothing", "empty", None),
        ("lambda x: '\x00'", "does not compile", None),
        ("raise SystemExit(3)", "SystemExit", 1),
        ("import sys\nsys.exit()\nlambda x: x", "SystemExit", 2),
        ("a, b = 1, 2", "last statement", 1),
    ],
)
def test_source_text_that_gives_no_function_is_refused_with_its_line(text, word, line):
    with pytest.raises(InvalidSource, match=word) as caught:
        source(text)
    assert caught.value.line == line


@pytest.mark.parametrize("text", [None, "", "   "])
def test_no_source_text_at_all_is_an_argument_that_is_missing(text):
    with pytest.raises(InvalidArgument):
        source(text)


def test_source_text_sees_the_namespace_and_leaves_it_as_it_was():
    namespace: dict[str, object] = {"factor": 3}
    function = source("offset = 1\nfactor = factor + 1\ndef f(x):\n    return x * factor + offset", namespace)
    assert function(10) == 41
    assert namespace == {"factor": 3}


def test_a_function_of_source_text_may_call_itself_and_its_helpers():
    assert source("def helper(n):\n    return n - 1\ndef f(n):\n    return 1 if n < 1 else n * f(helper(n))")(4) == 24


def test_a_traceback_shows_the_lines_of_source_text():
    with Machine(serve=False) as machine:
        machine[0] = source("def f(x):\n    return 1 / 0  # the very line")
        error = machine(1).outcomes[0].value["_exception"]
    assert "the very line" in error["exc_tb"]
    assert error["exc_class"] == "ZeroDivisionError"


def test_a_reference_names_a_function_of_an_installed_module():
    assert load(FunctionRef(kind="reference", text="os.path:basename"))("/a/b") == "b"
    assert load(FunctionRef(kind="reference", text="collections:OrderedDict.fromkeys"))("a") == {"a": None}


@pytest.mark.parametrize("text", ["os.path", "no_such_module_here:f", "os:no_such_name", "os.path:"])
def test_a_reference_to_nothing_is_refused(text):
    with pytest.raises(InvalidSource):
        load(FunctionRef(kind="reference", text=text))


def test_a_reference_whose_module_raises_is_refused_with_the_reason(tmp_path, monkeypatch):
    (tmp_path / "raises_on_import.py").write_text("raise RuntimeError('on purpose')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InvalidSource, match="on purpose"):
        load(FunctionRef(kind="reference", text="raises_on_import:f"))


def test_a_cloudpickle_of_this_python_loads():
    offset = 5
    data = cloudpickle.dumps(lambda x: x + offset)
    assert load(FunctionRef(kind="cloudpickle", data=data, python=PYTHON))(1) == 6


NOTEBOOK = """
import functools

def logged(function):
    @functools.wraps(function)
    def wrapper(*values):
        return function(*values)
    return wrapper

def plain(x):
    if x:
        raise ValueError(x)  # the very line

@logged
def decorated(x):
    raise ValueError(x)  # the very line

def outer(y):
    def inner(x):
        def deeper():
            raise ValueError(x)  # the very line
        return deeper()
    return inner

inner = outer(1)
short = [lambda x: x.no_such_name]  # the very line
"""
#: Of a function in `NOTEBOOK`: how to get it, and the text that a client sends along.
SENT = {
    "def": ("plain", "def plain(x):\n    if x:\n        raise ValueError(x)  # the very line\n"),
    "decorated": ("decorated", "@logged\ndef decorated(x):\n    raise ValueError(x)  # the very line\n"),
    "inner": (
        "inner",
        "    def inner(x):\n        def deeper():\n            raise ValueError(x)  # the very line\n"
        "        return deeper()\n",
    ),
    "partial": (
        "functools.partial(plain)", "def plain(x):\n    if x:\n        raise ValueError(x)  # the very line\n",
    ),
    "lambda": ("short[0]", "lambda x: x.no_such_name  # the very line"),
}  # fmt: skip


@pytest.mark.parametrize("file", ["<dynamic-code>", "/tmp/ipykernel_17/4711.py"])
@pytest.mark.parametrize("sent", SENT)
def test_a_pickled_function_shows_the_lines_of_the_text_that_came_along(sent, file):
    expression, text = SENT[sent]
    notebook: dict[str, Any] = {"__name__": "__main__"}
    exec(compile("\n" * 100 + NOTEBOOK, file, "exec"), notebook)
    data = cloudpickle.dumps(eval(expression, notebook))
    with Machine(serve=False) as machine:
        machine[0] = load(FunctionRef(kind="cloudpickle", data=data, python=PYTHON, text=text))
        machine.put(7)
        machine.get()
        (error,) = machine.errors
    assert "the very line" in error.exc_tb
    if sent != "decorated":  # there the slot's own file is the decorator's
        assert 1 <= int(error.where.rpartition(":")[2]) <= text.count("\n") + 1


def test_a_text_that_is_not_that_of_the_function_changes_nothing():
    def function(x):
        return 1 / x

    data = cloudpickle.dumps(function)
    for text in ["no python at all (", "def other(x):\n    pass\n", "def function(y):\n    pass\n", "\ud83d"]:
        loaded = load(FunctionRef(kind="cloudpickle", data=data, python=PYTHON, text=text))
        assert loaded(2) == 0.5


@pytest.mark.parametrize("python", ["2.7", "3.99", None])
def test_a_cloudpickle_of_another_python_is_refused_by_name_before_it_is_opened(python):
    with pytest.raises(PythonMismatch, match=r"source text"):
        load(FunctionRef(kind="cloudpickle", data=b"not even a pickle", python=python))


def test_a_broken_cloudpickle_is_refused():
    with pytest.raises(InvalidSource, match="cannot be loaded"):
        load(FunctionRef(kind="cloudpickle", data=b"junk", python=PYTHON))


class Greeter:
    def greet(self, name):
        return f"hello {name}"

    def __call__(self, name):
        return self.greet(name)


def greet(name):
    """Greet."""
    return name


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (greet, "test_functions.greet"),
        (functools.partial(greet), "test_functions.greet"),
        (Greeter().greet, "test_functions.Greeter.greet"),
        (Greeter(), "Greeter"),
        (Greeter, "test_functions.Greeter"),
        (len, "len"),
        (float, "float"),
    ],
)
def test_people_read_a_functions_name(function, name):
    assert function_name(function) == name


def test_people_read_a_functions_source_text_when_there_is_one():
    assert source_text(greet).startswith('def greet(name):\n    """Greet."""')
    assert source_text(functools.partial(greet)) == source_text(greet)
    assert source_text(Greeter()).startswith("class Greeter:")
    assert "def greet" in source_text(Greeter().greet)
    assert source_text(len) is None
    assert source_text(source("lambda x: x")) == "lambda x: x\n"


def test_setting_a_slot_from_source_keeps_the_text_for_people():
    with Machine(serve=False) as machine:
        machine.set(0, source("lambda x: x"), source="lambda x: x  # as typed")
        machine[1] = greet
        assert machine.slots[0].source == "lambda x: x  # as typed"
        assert machine.slots[1].source.startswith("def greet")


def test_functions_of_a_main_program_are_named_without_its_module():
    code = "from timbr_wamp.machine.slots.functions import function_name\ndef f(x): pass\nprint(function_name(f))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "f\n"
