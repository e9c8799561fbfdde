"""The slots as a graph: which slot consumes whose value, for Dask, for the wire, and to be looked at."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import pytest
from machine_kit import Machines

from timbr_wamp.errors import InvalidName, UpstreamError
from timbr_wamp.faces.plot import Plot, dot_text
from timbr_wamp.machine import Machine
from timbr_wamp.machine.serving.counter_samples import CounterSamples
from timbr_wamp.machine.serving.service import MachineService
from timbr_wamp.machine.slots.dependencies import Segment, dependencies_of
from timbr_wamp.machine.slots.graph import LABEL_LIMIT


@pytest.fixture
def machine(machines: Machines) -> Machine:
    """Two slots that need nothing of each other, and one that takes both."""
    m = machines(5)
    m.set(0, lambda message: message + 1, name="add")
    m.set(2, lambda: "alone")
    m.set(3, lambda f2, f1: [f2, f1])
    return m


# --- which slot consumes whose value ---


@pytest.mark.parametrize(
    ("slots", "segments"),
    [
        ({}, [((), ())]),
        ({0: lambda message: 1, 1: lambda f0: 1, 2: lambda f1, f0, message: 1}, [((0, 1, 2), ())]),
        ({0: lambda message: 1, 1: lambda: 1}, [((0,), ()), ((1,), ())]),
        ({0: lambda: 1, 1: lambda f0: 1}, [((0, 1), ())]),
        ({0: lambda message: 1, 2: lambda: 1, 3: lambda f2: 1}, [((0,), ()), ((1, 2), ())]),
        ({0: lambda message: 1, 1: lambda: 1, 2: lambda f1, f0: 1}, [((0,), ()), ((1,), ()), ((2,), (0, 1))]),
        ({0: lambda message: 1, 1: lambda: 1, 2: lambda: 1, 3: lambda f2, f1: 1, 4: lambda f3: 1},
         [((0,), ()), ((1,), ()), ((2,), ()), ((3, 4), (1, 2))]),
        ({0: lambda: 1, 1: lambda: 1, 2: lambda *values: 1}, [((0,), ()), ((1,), ()), ((2,), (0, 1))]),
    ],
)  # fmt: skip
def test_slots_that_may_run_side_by_side_are_cut_apart(machines, slots, segments):
    m = machines(5)
    m.assign(slots)
    assert dependencies_of(m.slot_table()).segments == tuple(Segment(*one) for one in segments)


# --- for Dask ---


def test_every_value_and_every_text_has_a_key(machine):
    graph = machine.dask_graph(1)
    keys = ["in", "f0", "f1", "f2", "f3", "f4"]
    assert dask.get(graph, keys) == (1, 2, 2, "alone", ["alone", 2], ["alone", 2])
    assert dask.get(graph, [f"{key}_s" for key in keys]) == ("1", "2", "2", '"alone"', '["alone",2]', '["alone",2]')


def test_the_record_is_the_one_that_a_call_of_the_machine_gives(machine):
    record, called = dask.get(machine.dask_graph(1, oid="a" * 24), "record"), machine(1)
    assert record.oid == "a" * 24
    assert (record.input, record.values, record.revision) == (called.input, called.values, called.revision)
    assert machine.status.put == 0


def test_an_invalid_oid_is_refused(machine):
    with pytest.raises(InvalidName):
        machine.dask_graph(1, oid="no id")


def test_the_value_of_a_slot_that_gave_none_is_the_error_and_the_record_tells(machines):
    m = machines(2)
    m[0] = lambda message: 1 / message
    m[1] = lambda f0: f0
    raised, text, skipped, record = dask.get(m.dask_graph(0), ["f0", "f0_s", "f1", "record"])
    assert isinstance(raised, ZeroDivisionError)
    assert "ZeroDivisionError" in text
    assert isinstance(skipped, UpstreamError)
    assert [outcome.kind for outcome in record.outcomes] == ["error", "skipped"]


def test_time_limits_hold_in_the_graph_too(machines):
    m, gate = machines(1, executor="threads"), machines.gate()
    m.set(0, gate, policy={"timeout_s": 0.02})
    record = dask.get(m.dask_graph("m"), "record")
    assert record.values[0]["_exception"]["exc_class"] == "SlotTimeout"


def test_a_graph_travels_to_other_processes(machine):
    machine.set(0, lambda message: 1 / message, policy="drop")
    graph = cloudpickle.loads(cloudpickle.dumps(machine.dask_graph(0)))
    record = dask.get(graph, "record")
    assert record.meta.dropped
    assert record.outcomes[0].value["_exception"]["exc_class"] == "ZeroDivisionError"


# --- for the wire ---


def test_the_graph_names_set_slots_and_whose_values_they_take(machine):
    graph = machine.graph
    assert graph.revision == machine.revision
    assert [(node.id, node.needs) for node in graph.nodes] == [
        ("in", []),
        ("f0", ["in"]),
        ("f2", []),
        ("f3", ["f0", "f2"]),
    ]
    assert graph.nodes[1].label.startswith("f0 (add): ")
    assert graph.mermaid.splitlines()[-3:] == ["    in --> f0", "    f0 --> f3", "    f2 --> f3"]


def test_the_service_gives_the_graph(machine):
    assert (
        MachineService(machine, "me", lambda progress: None, CounterSamples(lambda: machine.status)).graph()
        == machine.graph
    )


def named(name: str) -> Any:
    """Return a function of that name."""

    def function(value: object) -> object:
        return value

    function.__qualname__, function.__module__ = name, "__main__"
    return function


def test_nothing_in_a_name_gets_out_of_its_label(machines):
    m = machines(1)
    m[0] = named('a"] --> evil["<script>`#;\\\n\x1b&')
    graph = m.graph
    assert graph.mermaid.splitlines()[2] == (
        '    f0["f0: a#34;#93; #45;#45;#62; evil#91;#34;#60;script#62;#96;#35;#59;#92;  #38;"]'
    )
    assert '[label="f0: a\\"] --> evil[\\"<script>`#;\\\\ &"];' in dot_text(graph)


def test_a_label_is_bounded(machines):
    m = machines(1)
    m[0] = named("x" * 1000)
    assert len(m.graph.nodes[1].label) == LABEL_LIMIT


# --- to be looked at ---


def test_a_plot_is_text_and_mermaid_everywhere(machine):
    plot = Plot(machine.graph, find=lambda program: None)
    bundle = plot._repr_mimebundle_()
    assert sorted(bundle) == ["text/plain", "text/vnd.mermaid"]
    assert bundle["text/vnd.mermaid"] == plot.mermaid == machine.graph.mermaid
    lines = str(machine.plot()).splitlines()
    assert lines[:2] == ["revision 3", "message"]
    assert lines[4].startswith("f3: ")
    assert lines[4].endswith("← f2, f0")
    assert lines[3].endswith("← nothing")
    assert repr(plot) == bundle["text/plain"] == str(plot)


def program(folder: Path, body: str) -> Any:
    """Return what finds a Python program in place of ``dot``."""
    path = folder / "dot"
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(0o700)
    return lambda name: str(path)


def test_where_graphviz_is_there_is_an_svg(machine, tmp_path):
    find = program(
        tmp_path, "assert sys.argv[1:] == ['-Tsvg']; print('<svg>' + sys.stdin.read().split()[0] + '</svg>')"
    )
    assert Plot(machine.graph, find)._repr_mimebundle_()["image/svg+xml"] == "<svg>digraph</svg>\n"


def test_a_graphviz_that_fails_leaves_out_the_svg_only(machine, tmp_path):
    bundle = Plot(machine.graph, program(tmp_path, "sys.exit(1)"))._repr_mimebundle_()
    assert sorted(bundle) == ["text/plain", "text/vnd.mermaid"]
