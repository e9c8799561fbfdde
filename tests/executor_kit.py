"""Executors side by side: all must give equal records. A new executor is one more line in `MACHINES`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import dask.threaded
import orjson
from machine_kit import LIMIT_S, Recorder, in_thread

from timbr_wamp.contract import Record, outcome_kind
from timbr_wamp.machine import Machine

#: What is compared for a message: values, errored, dropped, policies.
Seen = tuple[list[Any], bool, bool, "dict[str, str] | None"]
Run = Callable[[Callable[[Machine], object], Sequence[Any]], list[Seen]]

STAGES = 6
#: Seconds within which a child process starts, also on a busy computer.
START_S = 30.0


def in_a_machine(*, beside_async: bool = False, **options: Any) -> Run:
    """Run messages through a running machine; with ``beside_async`` there is an async slot after all others."""

    def run(fill: Callable[[Machine], object], messages: Sequence[Any]) -> list[Seen]:
        records = Recorder()
        with Machine(STAGES + 1, serve=False, sinks=[records], **options) as machine:
            fill(machine)
            if beside_async:
                machine[STAGES] = beside
            oids = [machine.put(message) for message in messages]
            machine.start()
            by_oid = {record.oid: record for record in records.wait_for(len(messages), START_S)}
        return [seen(by_oid[oid], [by_oid[oid].input, *by_oid[oid].values]) for oid in oids]

    return run


async def beside() -> str:
    """Takes no value, so that it runs whatever the other slots do."""
    return "beside"


def in_dask(get: Callable[..., Any]) -> Run:
    """Run each message as a Dask graph, in one of Dask's own schedulers; not in the main thread, as in a machine."""

    def run(fill: Callable[[Machine], object], messages: Sequence[Any]) -> list[Seen]:
        with Machine(STAGES + 1, serve=False) as machine:
            fill(machine)
            graphs = [machine.dask_graph(message) for message in messages]
            records = in_thread(lambda: [get(graph, "record") for graph in graphs]).result(LIMIT_S)
        return [seen(record, [orjson.loads(text) for text in record.texts]) for record in records]

    return run


def in_threads(graph: dict[str, Any], key: str) -> Any:
    """Run a graph in Dask's threaded scheduler, with a pool that ends with it."""
    with ThreadPoolExecutor(4) as pool:
        return dask.threaded.get(graph, key, pool=pool)


def seen(record: Record, values: list[Any]) -> Seen:
    """Return what must be equal for every executor."""
    return values[: STAGES + 1], record.errored, record.meta.dropped, record.meta.policies


#: Executors that run in a machine.
MACHINES: dict[str, Run] = {
    "inline": in_a_machine(),
    "inline, beside async": in_a_machine(beside_async=True),
    "inline, beside async, four at once": in_a_machine(beside_async=True, concurrency=4),
    "threads": in_a_machine(executor="threads"),
    "threads, four at once": in_a_machine(executor="threads", concurrency=4),
    "processes": in_a_machine(executor="processes"),
    "processes, beside async": in_a_machine(executor="processes", beside_async=True),
}
EXECUTORS: dict[str, Run] = {
    **MACHINES,
    "dask.get": in_dask(dask.get),
    "dask.threaded.get": in_dask(in_threads),
}


def without_tracebacks(seen: Seen) -> Seen:
    """Remove the tracebacks and return the rest."""
    for value in seen[0]:
        if outcome_kind(value) != "value":
            value["_exception"]["exc_tb"] = None
    return seen


def values_of(seen: Seen) -> list[Any]:
    """Return the slots' values; of an exception its class name."""
    return [v if outcome_kind(v) == "value" else v["_exception"]["exc_class"] for v in seen[0][1:]]
