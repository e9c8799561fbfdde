"""The contract: calls are checked against it, and other files are generated from it."""

from __future__ import annotations

import pickle
from collections.abc import Callable

import msgspec
import orjson
import pytest

from timbr_wamp import contract
from timbr_wamp.contract import MACHINE, PROCEDURES, RESERVED_NAMES, TOPICS, Access, Record, RecordMeta, RecordRow
from timbr_wamp.contract.exports import access_table, typescript, uri_text, wire_reference
from timbr_wamp.errors import InvalidArgument, RecordTooLarge, TimbrError
from timbr_wamp.machine import Machine

ALL = [procedure for table in PROCEDURES.values() for procedure in table.values()]


def test_arguments_are_bound_by_position_and_by_name_and_defaults_are_left_out():
    assert MACHINE["records"].bind(["r", 5], {}) == {"run": "r", "after_seq": 5}
    assert MACHINE["records"].bind([], {"run": "r", "after_seq": 5, "limit": 1})["limit"] == 1


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "word"),
    [
        ("records", [], {}, "run"),
        ("records", ["r", 1, 2, 3], {}, "too many"),
        ("records", ["r", 1], {"colour": 1}, "colour"),
        ("records", ["r", "one"], {}, "after_seq"),
        ("records", ["r", True], {}, "after_seq"),
        ("records", ["r", 1.5], {}, "after_seq"),
        ("put_many", [5], {}, "messages"),
        ("slot_set", [0, "lambda x: x"], {}, "function"),
        ("slot_set", [0, {"kind": "pickle"}], {}, "function"),
        ("slot_set", [None, {"kind": "source"}], {}, "slot"),
    ],
)
def test_a_bad_argument_is_refused_by_its_name(name, args, kwargs, word):
    with pytest.raises(InvalidArgument, match=word):
        MACHINE[name].bind(args, kwargs)


def test_only_administrators_send_code():
    code = [
        procedure
        for procedure in ALL
        if any(name == "code" or "FunctionRef" in str(kind) for name, kind in procedure.types.items())
    ]
    assert {"execute", "execute_interactive", "slot_set", "source_set", "trial"} <= {each.name for each in code}
    assert {each.access for each in code} == {Access.ADMIN}


def test_structs_may_be_sent_as_maps():
    bound = MACHINE["slot_set"].bind([0, {"kind": "source", "text": "lambda x: x"}], {})
    assert bound["function"] == contract.FunctionRef(kind="source", text="lambda x: x")
    several = MACHINE["slot_set"].bind([0, [{"kind": "source", "text": "f"}, None]], {})
    assert several["function"][1] is None


def test_an_integer_is_accepted_as_seconds():
    assert MACHINE["stop"].bind([False, 5], {}) == {"drain": False, "timeout_s": 5.0}


@pytest.mark.parametrize("procedure", ALL, ids=lambda p: f"{p.scope}.{p.name}")
def test_every_procedure_is_described_and_its_types_can_be_sent(procedure):
    assert procedure.doc.splitlines()[0].endswith(".")
    assert set(procedure.types) == {parameter.name for parameter in procedure.parameters}
    msgspec.json.schema(procedure.result_type)
    for error in procedure.errors:
        assert issubclass(error, TimbrError)


def test_the_machine_answers_every_procedure_of_its_contract_with_the_type_it_promises(served, peer):
    oid = served.put(1)
    served.get()
    source = contract.FunctionRef(kind="source", text="[1, 2]")
    function = contract.FunctionRef(kind="source", text="lambda x: x")
    arguments = {
        "slot": (0,), "records": (served.run, 0), "record": (served.run, 1), "put": (1,), "put_many": ([1],),
        "call": (1,), "replay": (served.run, [1]), "slot_set": (0, function), "slot_delete": (0,),
        "trial": (0, function), "rollback": (0,), "source_set": (source,), "lookup": (oid,), "compare": (0, 0),
        "trial_report": (0, function), "table_trial": (0,),
        "policy_set": (0, contract.Policy(on_error="drop")), "handler_set": ("RetryHandler", {"retries": 1}),
    }  # fmt: skip
    order = [n for n in MACHINE if n not in ("pause", "resume", "stop")] + ["start", "pause", "resume", "stop"]
    for name in order:
        reply = peer.call(name, *map(contract.to_builtins, arguments.get(name, ())))
        MACHINE[name].result(reply)


def test_only_a_machine_has_a_thread_pool_for_what_waits():
    assert {each.scope for each in ALL if each.pooled} == {"machine"}


def test_names_of_the_kernels_own_procedures_and_topics_are_reserved():
    assert {"state", "iopub", "execute", "interrupt", "log"} <= RESERVED_NAMES
    assert "machine" not in RESERVED_NAMES
    with pytest.raises(InvalidArgument, match="iopub"):
        Machine(name="iopub", serve=False)


def test_the_access_table_covers_every_procedure_and_topic_and_nothing_that_runs_code_is_below_admin():
    table = access_table()
    for scope in PROCEDURES:
        assert len(table[scope]["procedures"]) == len(PROCEDURES[scope])
        assert len(table[scope]["topics"]) == len(TOPICS[scope])
    for procedure in ALL:
        if any(name in procedure.name for name in ("execute", "slot_set", "source_set", "trial", "shutdown")):
            assert procedure.access is Access.ADMIN
    assert table["node"]["procedures"]["io.timbr.kernel.list"] == "read"


def test_typescript_and_the_reference_name_everything():
    script, reference = typescript(), wire_reference()
    for procedure in ALL:
        assert f"  {procedure.name}: {{ args:" in script
        assert uri_text(procedure.scope, procedure.name) in reference
    for name in ("Status", "RecordRow", "ErrorRow", "KernelInfo"):
        assert f" {name} " in script
        assert f"### {name}" in reference


def test_results_keep_bytes_and_write_rows_as_arrays():
    row = RecordRow(1, "a" * 24, "[1]", "{}")
    assert contract.to_builtins([row]) == [[1, "a" * 24, "[1]", "{}"]]
    assert contract.to_builtins(contract.FunctionRef(kind="cloudpickle", data=b"x"))["data"] == b"x"


META = RecordMeta(run="r", seq=7, attempt=2, revision=3, received_at=1.0, finished_at=2.0, errored=True)


def record_of(values: list[object], serialized: bool = False) -> Record:
    row = RecordRow(7, "a" * 24, orjson.dumps(values).decode(), orjson.dumps(contract.to_builtins(META)).decode())
    return contract.record_from_row(row, include_serialized=serialized)


def test_a_record_reads_as_the_tuple_of_id_message_and_values():
    record = record_of([14, 196, 197])
    oid, message, f0, f1 = record
    assert (oid, message, f0, f1) == ("a" * 24, 14, 196, 197)
    assert record == ("a" * 24, 14, 196, 197)
    assert record.values == (196, 197)
    assert record.texts == ()
    assert (record.run, record.seq, record.attempt, record.revision, record.errored) == ("r", 7, 2, 3, True)


def test_a_record_with_texts_has_them_after_the_values():
    record = record_of([14, "x"], serialized=True)
    assert tuple(record) == ("a" * 24, 14, "x", "a" * 24, "14", '"x"')
    assert record.values == ("x",)
    assert record.texts == ("14", '"x"')


def test_a_record_distinguishes_values_errors_and_skips():
    error = {"_exception": {"exc_class": "ValueError", "exc_value": "", "exc_tb": "", "task": "f0"}}
    skip = {"_exception": {"exc_class": "UpstreamError", "exc_value": "", "exc_tb": None, "task": "f1"}}
    kinds = [outcome.kind for outcome in record_of([1, error, skip, {"_exception": 1}, {"a": 1}]).outcomes]
    assert kinds == ["error", "skipped", "value", "value"]


def test_a_record_survives_pickling():
    record = pickle.loads(pickle.dumps(record_of([1, 2], serialized=True)))
    assert record == record_of([1, 2], serialized=True)
    assert record.meta == META
    assert record.values == (2,)


LARGE = {**contract.to_builtins(META), "text_bytes": 5_000_000}


def without_text(form: str) -> contract.Record:
    """A record whose text was too large to travel, as each of the ways on the wire gives it."""
    if form == "row":
        return contract.record_from_row(RecordRow(7, "a" * 24, None, orjson.dumps(LARGE).decode()))
    block = orjson.dumps([[7, "a" * 24, None, LARGE]]).decode()
    batch = contract.RecordsBatch(run="r", first_seq=7, last_seq=7, count=1, layout=[1, 2], block=block)
    (record,) = contract.records_from_batch(batch)
    return record if form == "batch" else pickle.loads(pickle.dumps(record))


#: What can be asked of a record, and needs its values.
ASKED: dict[str, Callable[[contract.Record], object]] = {
    "input": lambda record: record.input,
    "values": lambda record: record.values,
    "outcomes": lambda record: record.outcomes,
    "texts": lambda record: record.texts,
    "an item": lambda record: record[2],
    "a slice": lambda record: record[1:],
    "len": len,
    "iteration": list,
    "unpacking": lambda record: dict(zip(("oid", "in"), record, strict=False)),
    "in": lambda record: 5 in record,
    "index": lambda record: record.index(5),
    "count": lambda record: record.count(5),
    "reversed": lambda record: list(reversed(record)),
    "+": lambda record: record.__add__((1,)),
    "+ before": lambda record: record.__radd__((1,)),
    "*": lambda record: (*record, 1),
}


@pytest.mark.parametrize("form", ["row", "batch", "pickled"])
@pytest.mark.parametrize("asked", ASKED)
def test_a_record_too_large_to_travel_says_its_size_and_how_to_fetch_it_whatever_is_asked(asked: str, form: str):
    record = without_text(form)
    for _ in range(2):
        with pytest.raises(RecordTooLarge, match=r"5,000,000 bytes.*machine\.record\('r', 7\)") as raised:
            ASKED[asked](record)
        assert raised.value.args == ("r", 7, 5_000_000)


@pytest.mark.parametrize("form", ["row", "batch", "pickled"])
def test_a_record_too_large_to_travel_has_its_name_and_shows_and_compares(form: str):
    record, other = without_text(form), without_text("batch")
    assert (record.oid, record.run, record.seq, record.attempt, record.errored) == ("a" * 24, "r", 7, 2, True)
    assert record.meta.text_bytes == 5_000_000
    assert record
    assert record == other
    assert len({record, other}) == 1
    assert record != record_of([1, 2])
    assert record != ("a" * 24, 1, 2)
    assert "5,000,000 bytes" in repr(record)
    assert "5,000,000 bytes" in str(record)
    assert "5,000,000 bytes" in record._repr_html_()


def test_a_record_that_was_fetched_whole_is_like_any_other():
    row = RecordRow(7, "a" * 24, "[1,2,3]", orjson.dumps(LARGE).decode())
    record = contract.record_from_row(row)
    assert record == ("a" * 24, 1, 2, 3)
    assert record.meta.text_bytes is None
    assert "bytes" not in str(record)


def test_a_record_of_a_batch_is_the_tuple_that_it_was_and_parsed_when_it_is_looked_at():
    meta = b'{"run":"r","seq":7,"attempt":1,"revision":2,"received_at":1.0,"finished_at":2.0,"errored":false}'
    block = b'[[7,"oid",[1,{"a":[2]}],%b],[8,"too",null,%b]]' % (meta, meta[:-1] + b',"text_bytes":9}')
    batch = contract.RecordsBatch(run="r", first_seq=7, last_seq=8, count=2, layout=[1, 2], block=block.decode())
    record, without = contract.records_from_batch(batch)
    whole = ("oid", 1, {"a": [2]}, {"a": [2]})
    assert record._items is None
    assert (record.seq, record.revision) == (7, 2)
    assert record._items is None, "its meta is parsed apart"
    assert record == whole
    assert (record[1], record[-1], record[1:3], len(record)) == (1, {"a": [2]}, whole[1:3], 4)
    assert record.values == whole[2:]
    before, after = (0,), (9,)
    assert (before + record, record + after) == ((0, *whole), (*whole, 9))
    assert record in [whole]
    again = pickle.loads(pickle.dumps(record))
    assert (again, again.meta, again.values) == (whole, record.meta, record.values)
    with pytest.raises(RecordTooLarge):
        tuple(without)
