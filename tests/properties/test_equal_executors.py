"""Random slot tables, arities, failures and policies: every executor gives equal records."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import Any

import dask
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.slot_kit import context_of, process
from timbr_wamp.contract import outcome_kind
from timbr_wamp.contract.policies import checked_policy
from timbr_wamp.machine.protocols import Executor
from timbr_wamp.machine.records.recorder import policies_of
from timbr_wamp.machine.running.dask_graph import dask_graph
from timbr_wamp.machine.running.executors.inline import InlineExecutor
from timbr_wamp.machine.running.executors.processes import ProcessesExecutor
from timbr_wamp.machine.running.executors.threads import ThreadsExecutor
from timbr_wamp.machine.slots.arguments import refusal
from timbr_wamp.machine.slots.dependencies import dependencies_of
from timbr_wamp.machine.slots.table import Revision, SlotTable

SLOTS = 6

#: ``(number, values it takes or -1, texts too, fails on, tries that fail, policy)``
specs = st.tuples(
    st.integers(0, 9),
    st.integers(-1, 3),
    st.booleans(),
    st.none() | st.integers(0, 3),
    st.sampled_from([1, 100]),
    st.sampled_from(
        [
            None, "record", "drop", "dead_letter", {"on_error": "default", "default": "d"}, {"retries": 2},
            {"retries": 1, "on_error": "drop"},
        ]
    ),
)  # fmt: skip
tables = st.dictionaries(st.integers(0, SLOTS - 1), st.none() | specs, max_size=SLOTS).filter(
    lambda table: all(spec is None or refusal(make_function(*spec[:5]), slot) is None for slot, spec in table.items())
)
messages = st.lists(st.one_of(st.integers(), st.text(max_size=5), st.lists(st.integers(), max_size=3)), max_size=5)


def make_function(number: int, takes: int, texts: bool, fails_on: int | None, bad_tries: int) -> Any:
    """Return a function that raises for some arguments, the first times or always, and changes lists."""
    tried: dict[str, int] = {}

    def run(*values: Any) -> Any:
        key = repr(values)
        if values and fails_on is not None and len(key) % 4 == fails_on:
            tried[key] = tried.get(key, 0) + 1
            if tried[key] <= bad_tries:
                raise ValueError(f"slot {number}: {key}")
        if values and isinstance(values[0], list):
            values[0].append(number)
            return values[0]
        return [number, key]

    fixed = [lambda: run(), lambda a: run(a), lambda a, b: run(a, b), lambda a, b, c: run(a, b, c)]
    if takes < 0:
        return (lambda a, b, c, d, e, f, g, h: run(a, b, c, d, e, f, g, h)) if texts else run
    return fixed[takes]


def steady(table: dict[int, Any]) -> dict[int, Any]:
    """Return the table with functions that fail always or never.

    Where several messages are under way, the one whose retry comes first would else take the others' failures.
    """
    return {n: spec and (*spec[:4], 100, spec[5]) for n, spec in table.items()}


def revision_of(table: dict[int, Any]) -> Revision:
    """Return the table's newest revision; each call makes new functions."""
    slots = SlotTable(SLOTS, lambda: 0.0)
    slots.assign(
        {n: None if spec is None else make_function(*spec[:5]) for n, spec in table.items()},
        policies={n: checked_policy(spec[5]) for n, spec in table.items() if spec and spec[5] is not None},
    )
    return slots.current()


def reported(texts: list[bytes], notes: Any) -> tuple[Any, ...]:
    """Return all that a record holds, except tracebacks."""
    values = [orjson.loads(text) for text in texts]
    for value in values:
        if outcome_kind(value) != "value":
            value["_exception"]["exc_tb"] = None
    return values, bool(notes and notes.errored), bool(notes and notes.verdict == "drop"), reported_policies_of(notes)


def reported_policies_of(notes: Any) -> dict[str, str]:
    """Return the policies of a record."""
    return policies_of(notes) if notes else {}


def run(executor: Executor, revision: Revision, given: list[Any], concurrency: int = 1) -> list[tuple[Any, ...]]:
    """Run messages through an executor and close it; return what their records hold."""
    try:
        return run_open(executor, revision, given, concurrency)
    finally:
        executor.close()


def run_open(executor: Executor, revision: Revision, given: list[Any], concurrency: int = 1) -> list[tuple[Any, ...]]:
    """Run messages through an executor; return what their records hold."""
    entries = deque((f"{n:024x}", message, 0.0, 1) for n, message in enumerate(deepcopy(given)))
    context = context_of(lambda: revision, concurrency=concurrency)
    finished = list(process(executor, entries, context))
    assert not entries
    assert executor.abandon() == []
    assert [entry[0] for entry, *_ in finished] == [f"{n:024x}" for n in range(len(given))]
    return [reported(texts, notes) for _, _, texts, notes, _ in finished]


def run_in_dask(revision: Revision, given: list[Any]) -> list[tuple[Any, ...]]:
    """Run messages as Dask graphs; return what their records hold."""
    found = []
    for message in deepcopy(given):
        graph = dask_graph(revision, message, "0" * 24, received_at=0.0, clock=float)
        record = dask.get(graph, "record")
        values = reported([text.encode() for text in record.texts], ())[0]
        found.append((values, record.errored, record.meta.dropped, record.meta.policies or {}))
    return found


@settings(max_examples=100, deadline=None)
@given(tables, messages)
def test_inline_threads_and_plain_dask_give_the_same(table, given):
    inline = run(InlineExecutor(), revision_of(table), given)
    assert run(ThreadsExecutor(), revision_of(table), given) == inline
    assert run_in_dask(revision_of(table), given) == inline


def test_a_child_process_gives_the_same():
    executor = ProcessesExecutor(workers=1)  # one for all examples, as its child takes long to start

    @settings(max_examples=60, deadline=None)
    @given(tables, messages)
    def gives_the_same(table, given):
        table = table if len(given) < 2 else steady(table)
        assert run_open(executor, revision_of(table), given) == run(InlineExecutor(), revision_of(table), given)

    try:
        gives_the_same()
    finally:
        executor.close()


@settings(max_examples=50, deadline=None)
@given(tables, messages, st.integers(2, 5))
def test_messages_under_way_at_once_give_the_same(table, given, concurrency):
    inline = run(InlineExecutor(), revision_of(steady(table)), given)
    assert run(ThreadsExecutor(), revision_of(steady(table)), given, concurrency) == inline


@given(tables)
def test_a_segment_waits_for_exactly_those_whose_values_it_consumes(table):
    revision = revision_of(table)
    dependencies = dependencies_of(revision)
    home = {step: n for n, segment in enumerate(dependencies.segments) for step in segment.steps}
    assert sorted(home) == list(range(len(revision.steps)))
    for position, inputs in enumerate(dependencies.inputs):
        segment = dependencies.segments[home[position]]
        for need in inputs.needs - {0}:
            assert need - 1 < position
            assert home[need - 1] in (home[position], *segment.after)
        if position == segment.steps[0]:
            assert set(segment.after) == {home[need - 1] for need in inputs.needs if need}
        assert bool(inputs.needs) or position == segment.steps[0], "a slot that takes nothing waits for nothing"
