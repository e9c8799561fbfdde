"""Functions and revisions beside the present ones: what differs, on copies, and the swap that is safe."""

from __future__ import annotations

import threading
from typing import Any, ClassVar

import pytest
from machine_kit import LIMIT_S, MemoryJournal

from timbr_wamp.errors import (
    InvalidArgument,
    NotCallable,
    PrepFailed,
    SlotNotRestored,
    SlotOutOfRange,
    TableChanged,
    UnknownErrorGroup,
    UnknownMessage,
    UnknownRevision,
)
from timbr_wamp.names import new_oid


@pytest.fixture
def quakes(machines):
    """A machine that has processed six messages; slot 1 failed for two of them."""
    machine = machines(stages=3)
    machine.set(0, lambda event: {"mag": event["mag"], "place": event["place"]}, name="clean")
    machine.set(1, "lambda quake: 1 / quake['mag']", name="shaking")
    for n in range(6):
        machine.put({"mag": n % 3, "place": f"p{n}"})
    machine.start()
    assert machine.wait(LIMIT_S)
    return machine


def outcomes(report: Any) -> list[str]:
    return [row.outcome for row in report]


# --- what a report says ---


def test_a_trial_says_what_differs_which_errors_are_new_and_which_are_gone(quakes):
    report = quakes.trial(
        "shaking", "lambda quake: 5 if quake['mag'] == 1 else 1 / max(quake['mag'], 0.5) / (2 - quake['mag'])"
    )
    assert outcomes(report) == ["mended", "changed", "new_error"] * 2
    assert report[1].changes == ["1.0 → 5"]
    assert "ZeroDivisionError" in report[2].changes[0]
    assert (report.tried, report.mended, report.changed, report.new_errors, report.same) == (6, 2, 2, 2, 0)
    assert report.before_p50_s > 0
    assert report.after_p50_s > 0
    assert all(row.before_s > 0 and row.duration_s > 0 for row in report)


def test_differences_are_named_by_their_place_in_the_json(quakes):
    report = quakes.trial(0, lambda event: {"mag": event["mag"] + 1, "at": [1]}, last=1)
    assert report[0].changes == [".mag: 2 → 3", '.place: "p5" → gone', ".at: new, [1]"]


def test_the_faces_of_a_report(quakes):
    report = quakes.trial(1, "lambda quake: '<b>' if quake['mag'] else 1")
    assert repr(report) == "<trial of f1 (shaking) beside revision 2: 6 messages: 4 changed, 2 mended>"
    for shown in (str(report), report._repr_html_()):
        assert "ZeroDivisionError" in shown
        assert "on trial" in shown
    assert "+lambda quake: " in str(report)
    assert "<b>" not in report._repr_html_().replace("<b>f1", "")


def test_messages_are_chosen_by_number_id_group_or_given(quakes):
    candidate = "lambda quake: 0"
    oid = quakes.recent(2)[0].oid
    assert len(quakes.trial(1, candidate, 4)) == 4
    assert [row.oid for row in quakes.trial(1, candidate, oids=[oid])] == [oid]
    assert outcomes(quakes.trial(1, candidate, group="shaking")) == ["mended", "mended"]
    given = quakes.trial(1, candidate, samples=[{"mag": 4, "place": ""}, {"place": "no magnitude"}])
    assert outcomes(given) == ["changed", "skipped"]
    assert given[0].before == "0.25"
    for more in ({"oids": [oid], "last": 1}, {"samples": [1], "last": 1}, {"last": 0}, {"oids": oid}):
        with pytest.raises(InvalidArgument):
            quakes.trial(1, candidate, **more)
    with pytest.raises(UnknownMessage):
        quakes.trial(1, candidate, oids=[new_oid()])
    with pytest.raises(UnknownErrorGroup):
        quakes.trial(1, candidate, group="clean")


def test_a_trial_without_any_records_says_so(machine):
    report = machine.trial(0, str)
    assert (report.tried, report.notes) == (0, ["no records are kept, so there was nothing to try it on"])
    assert "nothing to try" in str(report)


def test_a_function_that_depends_on_more_than_its_arguments_is_noted(machine):
    machine[0] = lambda x, seen=[]: seen.append(x) or len(seen)
    for n in range(3):
        machine.put(n)
        machine.get()
    assert any("depends on more" in note for note in machine.trial(0, "lambda x: x").notes)


def test_a_trial_ends_with_its_time_and_says_what_is_left(quakes):
    report = quakes.trial(1, "lambda quake: 1", timeout=0.0)
    assert report.tried == 0
    assert "6 of 6 messages left" in report.notes[0]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda m: m.trial(1, 5), NotCallable),
        (lambda m: m.trial(9, str), SlotOutOfRange),
        (lambda m: m.compare(0, 99), UnknownRevision),
        (lambda m: m.compare("a", 0), InvalidArgument),
    ],
)
def test_what_cannot_be_tried_is_a_clear_error(quakes, call, error):
    with pytest.raises(error):
        call(quakes)


# --- the stream is not touched ---


def test_a_trial_counts_publishes_and_calls_no_hook(quakes):
    seen = []
    for point in ("pre_slot", "post_slot", "pre_publish"):
        quakes.hook(point, lambda *_: seen.append(1))
    before = quakes.status
    quakes.trial(1, "lambda quake: 1 / 0")
    quakes.trial(1, "lambda quake: 1", samples=[{"mag": 1, "place": ""}])
    quakes.compare(1, 2, last=3)
    after = quakes.status
    assert not seen
    assert (after.put, after.last_seq, after.revision) == (before.put, before.last_seq, before.revision)
    assert [slot.calls for slot in after.slots] == [slot.calls for slot in before.slots]
    assert len(quakes.errors) == 2


def test_a_trial_runs_beside_a_machine_whose_slot_is_stuck(machine, gate):
    machine.put(1)
    machine.get()
    machine[0] = gate
    machine.put("stuck")
    machine.start()
    gate.wait_until_entered()
    assert machine.trial(1, lambda x: x + 1, last=1)[0].text == "2"
    gate.open()


class Counter:
    """Counts what it has seen, and how often it was opened and closed."""

    made: ClassVar[list[Counter]] = []

    def __init__(self) -> None:
        self.seen = self.opened = self.closed = 0

    def __deepcopy__(self, memo: object) -> Counter:
        made = Counter()
        made.seen = self.seen
        Counter.made.append(made)
        return made

    def prep(self) -> None:
        self.opened += 1

    def step(self, value: object) -> int:
        assert self.opened > self.closed
        self.seen += 1
        return self.seen

    def teardown(self) -> None:
        self.closed += 1


def test_objects_are_tried_as_copies_with_a_prep_and_teardown_of_their_own(machine):
    present, candidate = Counter(), Counter()
    Counter.made = []
    machine[0] = present
    machine.put("a")
    machine.get()
    machine.trial(0, candidate)
    assert (present.seen, present.opened, present.closed) == (1, 1, 0)
    assert (candidate.seen, candidate.opened) == (0, 0)
    assert [(one.opened, one.closed) for one in Counter.made] == [(1, 1), (1, 1)]
    machine.trial(0, candidate).commit()
    assert (candidate.opened, candidate.seen) == (1, 0)


def test_what_cannot_be_copied_is_used_itself_and_noted(machine):
    class Locked:
        def __init__(self) -> None:
            self.lock = threading.Lock()

        def __call__(self, value: object) -> object:
            return value

    machine[0] = Locked()
    machine.put(1)
    machine.get()
    assert "cannot be copied" in machine.trial(0, str).notes[0]


def test_an_object_that_cannot_be_prepared_is_refused(machine):
    class Broken(Counter):
        def prep(self) -> None:
            raise OSError("no such device")

        def __deepcopy__(self, memo: object) -> Counter:
            return self

    with pytest.raises(PrepFailed, match="no such device"):
        machine.trial(0, Broken())


def test_async_slots_can_be_tried(machine):
    async def double(value: int) -> int:
        return 2 * value

    machine.put(4)
    machine.get()
    assert machine.trial(0, double)[0].text == "8"


def test_each_function_gets_values_of_its_own(machine):
    machine[0] = lambda message: message.append(1) or len(message)
    machine.put([])
    machine.get()
    report = machine.trial(0, lambda message: message.append(1) or len(message), samples=[[]])
    assert outcomes(report) == ["same"]


# --- commit and reasons ---


def test_a_commit_sets_what_was_tried_with_its_reason(quakes):
    report = quakes.trial("shaking", "lambda quake: 1 / max(quake['mag'], 1)")
    revision = report.commit(reason="magnitudes of 0 exist")
    assert (revision.number, revision.reason, revision.change) == (3, "magnitudes of 0 exist", "set 1")
    assert quakes.slots[1].source == "lambda quake: 1 / max(quake['mag'], 1)"
    assert quakes.slots[1].name == "shaking"
    assert quakes.events()[-1].data["reason"] == "magnitudes of 0 exist"
    assert "magnitudes of 0 exist" in str(quakes.revisions)


@pytest.mark.parametrize(
    "change", [lambda m: m.set(2, str, author="bob"), lambda m: m.rollback(1), lambda m: m.set_policy(0, "drop")]
)
def test_a_commit_is_refused_when_the_table_changed_meanwhile(quakes, change):
    report = quakes.trial(1, "lambda quake: 0")
    change(quakes)
    before = quakes.revision
    with pytest.raises(TableChanged, match=f"revision {before}"):
        report.commit()
    assert quakes.revision == before


def test_a_commit_is_made_once(quakes):
    report = quakes.trial(1, "lambda quake: 0")
    report.commit()
    with pytest.raises(TableChanged):
        report.commit()


@pytest.mark.parametrize(
    "verb",
    [
        lambda m, **why: m.set(0, str, **why),
        lambda m, **why: m.assign({0: str, 1: str}, **why),
        lambda m, **why: m.rollback(0, **why),
    ],
)
def test_a_change_can_be_bound_to_a_revision_and_has_a_reason(machine, verb):
    machine[5] = str
    with pytest.raises(TableChanged):
        verb(machine, if_revision=0)
    assert verb(machine, if_revision=1, reason="a try").reason == "a try"
    with pytest.raises(InvalidArgument):
        verb(machine, reason=5)
    with pytest.raises(InvalidArgument):
        verb(machine, reason="x" * 2_000)


def test_reasons_survive_the_process(machines):
    journal = MemoryJournal()
    first = machines(journal=journal)
    first.set(0, "lambda x: 1", author="ada", reason="the first")
    first.rollback(0, reason="it was wrong")
    again = machines(journal=journal.reopened())
    assert [(one.author, one.reason) for one in again.revisions][1:] == [("ada", "the first"), (None, "it was wrong")]


# --- revisions side by side ---


def test_two_revisions_are_compared_by_source_name_and_policy(quakes):
    quakes.set(1, "lambda quake: 2 / quake['mag']", policy="drop")
    quakes.set(2, str)
    diff = quakes.compare(2, quakes.revision)
    assert [(one.slot, one.change, one.also) for one in diff.slots] == [(1, "changed", ["policy"]), (2, "set", [])]
    for shown in (str(diff), diff._repr_html_()):
        assert "revisions 2 and 4: 2 slots differ" in shown
    assert "-lambda quake: 1 / quake['mag']\n+lambda quake: 2 / quake['mag']" in str(diff)
    assert quakes.compare(2, 2).slots == []
    assert [one.change for one in quakes.compare(4, 1).slots] == ["unset", "unset"]


def test_two_revisions_are_compared_by_what_they_give(quakes):
    quakes[1] = "lambda quake: 1 / max(quake['mag'], 1)"
    diff = quakes.compare(2, 3, last=3)
    assert outcomes(diff.trial.rows) == ["mended", "same", "same"]
    assert "1 mended" in str(diff)


def test_revisions_of_an_earlier_process_can_be_compared_tried_and_restored(machines):
    journal = MemoryJournal()
    first = machines(stages=2, journal=journal)
    first[0] = lambda message: message + 1
    first[1] = lambda value, message: value * message
    first.put(3)
    first.get()
    first[1] = None
    again = machines(stages=2, journal=journal.reopened())
    assert [one.change for one in again.compare(2, 3).slots] == ["unset"]
    assert again.replay(range(1, 2), into="trial", revision=2)[0].text == "[4,12]"
    again.rollback(2)
    assert again(3).values == (4, 12), "a function of two arguments still gets two"


def test_a_function_that_was_not_kept_is_a_clear_error(machines):
    journal = MemoryJournal()
    first = machines(journal=journal)
    lock = threading.Lock()
    first[0] = lambda message: lock.locked()
    first[0] = None
    again = machines(journal=journal.reopened())
    with pytest.raises(SlotNotRestored, match="pickled"):
        again.rollback(1)
