"""How structs, their lists, records and machines look, in HTML and in text."""

from __future__ import annotations

import json
from io import StringIO
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_tables import EVIL, Page

from timbr_wamp.contract import (
    ErrorGroup,
    ErrorRow,
    Event,
    Policy,
    Progress,
    Record,
    RecordMeta,
    RevisionInfo,
    SlotCounts,
    SlotInfo,
    SourceStatus,
    Status,
    TrialRow,
)
from timbr_wamp.errors import RemoteError, described
from timbr_wamp.faces.cards import bar_text, percentage, progress_text
from timbr_wamp.faces.tables import (
    ErrorGroups,
    ErrorRows,
    Events,
    Revisions,
    Rows,
    SlotInfos,
    Trials,
    machine_html,
    machine_text,
    record_html,
    record_text,
)
from timbr_wamp.machine import Machine

NOW = 1_763_797_000.0
COUNTS = SlotCounts(slot=0, calls=1234, errors=5, retries=2, p50_s=0.0001, p99_s=0.02)
STATUS = Status(
    name="tweets", run="r", state="running", running=True, put=1300, processed=1229, errored=5, dropped=2, refused=3,
    retrying=1, queue_size=60, queue_capacity=1024, in_flight=4, last_seq=1236, last_oid="69216a08aabbccddee000001",
    rate_per_s=(10.0, 9.5, 8.25), uptime_s=75.0, time=NOW, revision=3, slots=[COUNTS, SlotCounts(slot=1)],
    source=SourceStatus(state="reading", count=25, total=100, eta_s=8.0),
)  # fmt: skip
SLOTS = SlotInfos(
    [
        SlotInfo(
            slot=0, name="clean", identity=False, kind="function", function="app.clean", values=1, revision=3,
            author="ada", source="def clean(x):\n    return x", counts=COUNTS,
            policy=Policy(on_error="drop", retries=3),
        ),
        SlotInfo(slot=1),
    ]
)  # fmt: skip
ERRORS = ErrorRows(
    [
        ErrorRow(
            run="r", seq=31, oid="69216a08aabbccddee000001", attempt=1, revision=3, time=NOW, slot=0, task="f0 (clean)",
            exc_class="ZeroDivisionError", exc_value="division by zero", exc_tb="Traceback:\n  line 1", input='{"n":0}',
            where="app.py:2", tries=4,
        )
    ]
)  # fmt: skip


def texts(shown: Any) -> str:
    """Return the visible text of a value's HTML."""
    return "\n".join(Page(shown if isinstance(shown, str) else shown._repr_html_()).texts)


def a_record(*values: Any, **meta: Any) -> Record:
    known = {"run": "r", "seq": 7, "attempt": 2, "revision": 3, "received_at": NOW, "finished_at": NOW + 0.25}
    return Record.make("69216a08aabbccddee000001", list(values), RecordMeta(errored=False, **{**known, **meta}))


FAILED = {"_exception": {"exc_class": "KeyError", "exc_value": "'n'", "exc_tb": "Traceback:\n  here", "task": "f1"}}
SKIPPED = {"_exception": {"exc_class": "UpstreamError", "exc_value": "f1 failed", "exc_tb": "", "task": "f2"}}


# --- status and machine ------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [str(STATUS), texts(STATUS)], ids=["text", "html"])
@pytest.mark.parametrize(
    "fact",
    [
        "running", "tweets", "ingest time", "2025-11-22T07:45:12Z", "69216a08aabbccddee000001", "1,229", "60 of 1,024",
        "10.0/s", "errored", "dropped", "refused", "retrying", "25 of 100", "about 8 s left", "1,234", "100 µs",
        "20 ms",
    ],
)  # fmt: skip
def test_a_status_shows(shown: str, fact: str) -> None:
    assert fact in shown


def test_a_status_keeps_its_repr_and_shows_its_card_in_ipython() -> None:
    printed = StringIO()

    class Printer:
        def text(self, text: str) -> None:
            printed.write(text)

    assert repr(STATUS).startswith("Status(name='tweets', run='r', state='running'")
    STATUS._repr_pretty_(Printer(), cycle=False)
    assert printed.getvalue() == str(STATUS)


def test_a_status_has_a_dot_in_its_states_colour_and_a_bar_for_its_source() -> None:
    assert '<span style="color:#2ea043">●</span> <b>running</b>' in STATUS._repr_html_()
    failed = msgspec.structs.replace(STATUS, state="failed", reason="no <disk>")
    assert '<span style="color:#e5534b">●</span> <b>failed (no &lt;disk&gt;)</b>' in failed._repr_html_()
    assert "width:25.0%" in STATUS._repr_html_()
    endless = msgspec.structs.replace(STATUS, source=SourceStatus(state="reading", count=25))
    assert "progressbar" not in endless._repr_html_()
    assert "25 read" in str(endless)


def test_a_status_says_when_the_thread_of_a_running_machine_is_dead() -> None:
    assert "its thread is dead" in str(msgspec.structs.replace(STATUS, running=False))
    assert "its thread is dead" not in str(STATUS)


def test_the_legacy_status_has_the_keys_of_timbr_machine() -> None:
    assert STATUS.legacy() == {
        "CurrentOID": None,
        "LastOID": "69216a08aabbccddee000001",
        "Processed": 1229,
        "QueueSize": 60,
        "CurrentTime": "2025-11-22T07:36:40.000Z",
    }


@pytest.mark.parametrize("oid", ["mine", "z" * 24, None])
def test_an_id_without_a_time_gives_no_ingest_time(oid: str | None) -> None:
    assert "ingest time  –" in str(msgspec.structs.replace(STATUS, last_oid=oid))


def test_a_machine_shows_its_functions_and_newest_failures() -> None:
    for shown in (machine_text(STATUS, SLOTS, ERRORS), texts(machine_html(STATUS, SLOTS, ERRORS))):
        for fact in ("clean", "app.clean", "retry 3, then drop", "unset: f1", "ZeroDivisionError", '{"n":0}'):
            assert fact in shown
    many = machine_text(STATUS, SLOTS, ErrorRows(ERRORS * 50))
    assert "the newest 5 of 50 failures" in many
    assert many.count("ZeroDivisionError") == 5


def test_a_machine_of_unset_slots_says_so() -> None:
    fresh = Status(name="m", run="r", state="idle")
    assert "all 2 slots are unset" in machine_text(fresh, [SlotInfo(slot=0), SlotInfo(slot=1)])
    assert "no slot has run yet" in texts(fresh)


# --- lists -------------------------------------------------------------------------------------


def test_slots_are_a_list_that_shows_as_a_table() -> None:
    assert isinstance(SLOTS, list)
    assert SLOTS[0].name == "clean"
    lines = str(SLOTS).splitlines()
    shown = [header for header in SLOTS.headers if header in lines[0]]
    assert shown == list(SLOTS.headers)
    assert "(passes its value on)" in lines[2]
    assert "def clean(x):\n    return x" in texts(SLOTS), "the source opens on a click"


def test_errors_fold_their_tracebacks_and_say_what_became_of_them() -> None:
    html = ERRORS._repr_html_()
    assert "<details>" in html
    assert "Traceback:\n  line 1" in texts(ERRORS)
    assert "Traceback" not in str(ERRORS)
    for fact in ("31", "app.py:2", "f0 (clean)", "record", "4", "no"):
        assert fact in str(ERRORS)
    assert str(ERRORS[0]).endswith("Traceback:\n  line 1")


def test_a_long_traceback_keeps_its_end() -> None:
    row = msgspec.structs.replace(ERRORS[0], exc_tb="x" * 100_000 + "the cause")
    html = ErrorRows([row])._repr_html_()
    assert "the cause" in html
    assert len(html) < 10_000


def test_a_trial_shows_values_and_errors_and_is_one_line_in_a_repl() -> None:
    failure = {"_exception": {"exc_class": "KeyError", "exc_value": "'x'", "exc_tb": "line 1", "task": "f0"}}
    trials = Trials([
        TrialRow(oid="a" * 24, text='{"depth": 7}', errored=False, duration_s=0.002, before='"shallow"'),
        TrialRow(oid="b" * 24, text=json.dumps(failure), errored=True, duration_s=0.001),
    ])  # fmt: skip
    assert repr(trials) == "<trial on 2 records: 1 ok, 1 failed>"
    assert repr(trials[:1]) == "<trial on 1 record: 1 ok, 0 failed>"
    for shown in (str(trials), trials._repr_html_()):
        assert "KeyError" in shown
        assert "2 ms" in shown
        assert "shallow" in shown
    assert "{'depth': 7}" in str(trials)
    assert "KeyError" in str(trials[1])
    assert "no records are kept" in str(Trials())


def test_groups_revisions_and_events() -> None:
    groups = ErrorGroups(
        [
            ErrorGroup(
                slot=0, task="f0", exc_class="KeyError", where="app.py:2", count=1234, open=3, policies={"drop": 2}
            )
        ]
    )
    revisions = Revisions([RevisionInfo(number=3, time=NOW, author="ada", change="set 0", functions=["clean", None])])
    events = Events([Event(kind="paused", time=NOW, number=9, author="ada", data={"after": list(range(1000))})])
    for shown in (str(groups), texts(groups)):
        assert {"1,234", "app.py:2", "drop 2", "KeyError"} <= set(
            shown.replace("  ", "\n").replace("\n ", "\n").split("\n")
        )
    for shown in (str(revisions), texts(revisions)):
        assert "set 0" in shown
        assert "clean, ·" in shown
    for shown in (str(events), texts(events)):
        assert "paused" in shown
        assert "after: [0, 1, 2" in shown
        assert "999" not in shown


@pytest.mark.parametrize(("kind", "says"), [(ErrorRows, "no slot has failed"), (Events, "no events yet")])
def test_an_empty_list_says_so(kind: type[Rows[Any]], says: str) -> None:
    assert str(kind()) == says
    assert texts(kind()) == says
    assert repr(kind()) == says


@pytest.mark.parametrize(
    "struct", [SLOTS[0], ERRORS[0], Event(kind="idle", time=NOW, number=1)], ids=lambda s: type(s).__name__
)
def test_a_single_item_is_a_table_of_its_fields(struct: Any) -> None:
    assert repr(struct).startswith(type(struct).__name__ + "(")
    assert Page(struct._repr_html_()).tags.count("tr") == len(str(struct).partition("\nTraceback")[0].splitlines())


@pytest.mark.parametrize("rows", [SLOTS, ERRORS], ids=lambda rows: type(rows).__name__)
def test_slices_copies_and_sums_of_a_list_are_tables_too(rows: Rows[Any]) -> None:
    for part in (rows[-1:], rows[:0], rows[::-1], rows.copy(), rows + rows, rows + list(rows)):
        assert type(part) is type(rows)
        assert str(part) == str(type(rows)(list(part)))
    assert rows[-1] is list(rows)[-1]


def test_an_exception_without_a_text_is_shown_as_its_class() -> None:
    row = msgspec.structs.replace(ERRORS[0], exc_class="TypeError", exc_value="")
    failed = {"_exception": {"exc_class": "TypeError", "exc_value": "", "exc_tb": "", "task": "f0"}}
    for shown in (
        str(row),
        str(ErrorRows([row])),
        machine_text(STATUS, SLOTS, [row]),
        record_text(a_record(1, failed)),
    ):
        assert "TypeError" in shown
        assert "TypeError:" not in shown
    assert described(TimeoutError()) == str(RemoteError("TimeoutError", "")) == "TimeoutError"


class _RudeError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_an_exception_whose_text_raises_is_still_described() -> None:
    assert described(_RudeError()) == "_RudeError: <its text raised RuntimeError>"


class _Overridden(Machine):
    """A machine whose subclass returns what it likes, as one of timbr-machine's notebooks does."""

    @property
    def status(self) -> Any:
        return {"Processed": 3}

    @property
    def errors(self) -> Any:
        return None


def test_a_machine_whose_status_is_not_a_status_has_a_repr_a_text_and_html() -> None:
    machine = _Overridden(stages=2, serve=False)
    assert "{'Processed': 3}" in repr(machine)
    assert "{'Processed': 3}" in str(machine)
    assert "{&#x27;Processed&#x27;: 3}" in machine._repr_html_()
    Machine.close(machine)


@pytest.mark.parametrize(
    "struct",
    [
        msgspec.structs.replace(STATUS, rate_per_s=None),
        msgspec.structs.replace(STATUS, source=None),
        msgspec.structs.replace(ERRORS[0], exc_tb=7, exc_value=b"x", time="now"),
        Event(kind="idle", time=NOW, number=1, data=[1]),  # type: ignore[arg-type]
        Progress(done="x"),  # type: ignore[arg-type]
        a_record(1, {"_exception": {"exc_class": 7}}, policies=[1]),
    ],
    ids=lambda struct: type(struct).__name__,
)
def test_fields_of_unexpected_types_do_not_break_a_display(struct: Any) -> None:
    for shown in (str(struct), struct._repr_html_(), repr(struct)):
        assert shown


# --- records and progress ----------------------------------------------------------------------


def test_a_record_has_one_row_per_slot() -> None:
    record = a_record(14, 196, FAILED, SKIPPED, policies={"f1": "retry 2"})
    lines = record_text(record, ["square"]).splitlines()
    assert lines[0] == ("record 7, message 69216a08aabbccddee000001, revision 3, attempt 2, took 250 ms, f1: retry 2")
    assert lines[1].split() == ["slot", "name", "outcome", "value"]
    assert [line.split()[0] for line in lines[2:]] == ["in", "f0", "f1", "f2"]
    assert "square  value    196" in lines[3]
    assert "error    KeyError: 'n'" in lines[4]
    assert "skipped  UpstreamError: f1 failed" in lines[5]
    html = record_html(record)
    assert html.count("<details>") == 1
    assert "Traceback:\n  here" in texts(html)


def test_a_record_shows_itself_and_stays_a_tuple() -> None:
    record = a_record(14, 196)
    assert str(record) == record_text(record)
    assert record._repr_html_() == record_html(record)
    assert repr(record) == "Record('69216a08aabbccddee000001', 14, 196)"


def test_a_record_too_large_to_travel_says_how_large() -> None:
    assert "5,000,000 bytes" in str(a_record(text_bytes=5_000_000))


def test_a_record_of_huge_values_is_short() -> None:
    huge = a_record(list(range(1_000_000)), {"text": "x" * 1_000_000}, b"y" * 1_000_000)
    assert len(str(huge)) < 2_000
    assert len(huge._repr_html_()) < 5_000


def test_progress_is_one_line_with_or_without_a_total() -> None:
    known = Progress(done=50, total=100, percentage=50.0, errored=2, rate_per_s=10.0, eta_s=5.0, state="running")
    assert str(known) == f"{bar_text(50.0)}  50 of 100 messages recorded, 2 errored, 10.0 messages/s, about 5 s left"
    assert "width:50.0%" in known._repr_html_()
    unknown = Progress(done=50, rate_per_s=10.0, state="paused")
    assert progress_text(unknown) == "50 messages recorded, 10.0 messages/s, paused"
    assert "progressbar" not in unknown._repr_html_()
    assert "complete" in str(Progress(done=3, total=3, percentage=100.0, state="stopped", complete=True))


@given(st.integers(), st.none() | st.integers())
def test_a_percentage_is_from_0_to_100(done: int, total: int | None) -> None:
    percent = percentage(done, total)
    assert percent is None if total is None else 0.0 <= percent <= 100.0
    assert len(bar_text(percent)) == len(bar_text(None))


# --- hostile texts -----------------------------------------------------------------------------

hostile = st.text(max_size=60) | st.just(EVIL)
TAGS = {
    "div", "span", "b", "code", "pre", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "a",
}  # fmt: skip


@given(hostile)
def test_no_foreign_text_becomes_markup(text: str) -> None:
    counts = SlotCounts(slot=0, calls=1)
    status = Status(
        name=text, run=text, state="failed", reason=text, last_oid=text, slots=[counts],
        source=SourceStatus(state="failed", error=text),
    )  # fmt: skip
    slot = SlotInfo(slot=0, name=text, identity=False, function=text, source=text, author=text, counts=counts)
    error = ErrorRow(
        run=text, seq=1, oid=text, attempt=1, revision=1, time=NOW, slot=0, task=text, exc_class=text, exc_value=text,
        exc_tb=text, input=text, where=text,
    )  # fmt: skip
    group = ErrorGroup(
        slot=0, task=text, exc_class=text, where=text, exc_value=text, exc_tb=text, input=text, policies={text: 1}
    )
    failed = {"_exception": {"exc_class": text, "exc_value": text, "exc_tb": text}}
    shown = [
        machine_html(status, [slot], [error]),
        *(
            one._repr_html_()
            for one in (SlotInfos([slot]), ErrorRows([error]), ErrorGroups([group]), slot, error, group)
        ),
        Revisions([RevisionInfo(number=1, time=NOW, author=text, change=text, functions=[text])])._repr_html_(),
        Events([Event(kind="failed", time=NOW, number=1, author=text, data={text: text})])._repr_html_(),
        record_html(a_record(text, {text: text}, failed, policies={"f1": text}), [text]),
    ]
    for html in shown:
        page = Page(html)
        assert set(page.tags) <= TAGS
        assert {name for name, _ in page.attributes} <= {"style", "href", "title", "target", "rel"}
        html.encode()
    assert all(line.isprintable() or "\u200d" in line for line in machine_text(status, [slot], [error]).split("\n"))
