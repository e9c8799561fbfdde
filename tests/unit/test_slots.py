"""The slot table is replaced whole; every state of it is a revision."""

from __future__ import annotations

import re

import pytest

from timbr_wamp.errors import (
    InvalidArgument,
    InvalidName,
    NotCallable,
    SlotOutOfRange,
    UnknownRevision,
    UnknownSlot,
)
from timbr_wamp.machine import Machine
from timbr_wamp.machine.slots.table import REVISIONS_KEPT, SlotTable


def double(x):
    return x * 2


def increment(x):
    return x + 1


@pytest.fixture
def table(clock) -> SlotTable:
    return SlotTable(4, clock)


def functions(table: SlotTable) -> list[object]:
    return [slot.function for slot in table.current().slots]


def test_a_new_table_is_revision_0_and_all_identity(table):
    assert table.current().number == 0
    assert table.current().steps == ()
    assert functions(table) == [None] * 4


def test_a_change_makes_a_new_revision_and_leaves_the_old_one_as_it_was(table, clock):
    before = table.current()
    clock.advance(5.0)
    after = table.assign({1: double}, author="ada")
    assert (after.number, after.author, after.change, after.time) == (1, "ada", "set 1", clock())
    assert table.current() is after
    assert before.slots[1].function is None
    assert after.slots[1].since == 1


def test_several_changes_at_once_are_one_revision(table):
    table.assign({0: double, 2: increment, 3: None})
    assert table.current().number == 1
    assert functions(table) == [double, None, increment, None]
    assert table.current().change == "set 0, 2; delete 3"


def test_one_refused_function_of_several_changes_nothing(table):
    with pytest.raises(NotCallable):
        table.assign({0: double, 1: 5})
    assert table.current().number == 0


def test_only_set_slots_are_steps_and_identity_is_carried(table):
    table.assign({1: double, 3: increment})
    revision = table.current()
    assert revision.lead == 1
    assert [(step.slot.number, step.carry) for step in revision.steps] == [(1, 1), (3, 0)]


@pytest.mark.parametrize("slot", [4, -5, 99])
def test_a_number_out_of_range_is_refused(table, slot):
    with pytest.raises(SlotOutOfRange, match="0 to 3"):
        table.assign({slot: double})
    with pytest.raises(IndexError):
        table.number_of(slot)


@pytest.mark.parametrize("slot", [1.0, None, True, (1,)])
def test_what_is_neither_number_nor_name_is_refused(table, slot):
    with pytest.raises(InvalidArgument):
        table.number_of(slot)


def test_negative_numbers_count_from_the_end(table):
    assert table.number_of(-1) == 3
    table.assign({-1: double})
    assert table.current().slots[3].number == 3
    assert functions(table) == [None, None, None, double]


def test_a_slot_is_found_by_its_name_which_stays_when_its_function_is_replaced(table):
    table.assign({1: double}, names={1: "clean"})
    assert table.number_of("clean") == 1
    table.assign({1: increment})
    assert table.number_of("clean") == 1
    table.assign({1: None})
    with pytest.raises(UnknownSlot, match="none"):
        table.number_of("clean")


def test_a_slot_is_found_by_its_label_and_no_slot_is_named_like_one(table):
    assert [table.number_of(text) for text in ("f3", "3", "f0")] == [3, 3, 0]
    with pytest.raises(IndexError):
        table.number_of("f4")
    for name in ("f1", "in"):
        with pytest.raises(InvalidName, match="labels"):
            table.assign({2: double}, names={2: name})
    table.assign({2: double}, names={2: "f1b"})
    assert table.number_of("f1b") == 2


def test_two_slots_cannot_bear_one_name(table):
    table.assign({1: double}, names={1: "clean"})
    with pytest.raises(InvalidName):
        table.assign({2: double}, names={2: "clean"})
    with pytest.raises(InvalidName):
        table.assign({2: double}, names={2: "not a name"})
    assert table.current().number == 1


def test_rollback_makes_an_earlier_table_the_newest_revision(table):
    table.assign({0: double}, author="ada")
    table.assign({0: increment, 1: increment})
    revision = table.rollback(1, author="bob")
    assert (revision.number, revision.author, revision.change) == (3, "bob", "rollback to 1")
    assert functions(table) == [double, None, None, None]
    assert revision.slots[0].author == "ada"
    table.rollback(2)
    assert functions(table) == [increment, increment, None, None]


@pytest.mark.parametrize("number", [-1, 1, 99])
def test_an_unknown_revision_is_refused(table, number):
    with pytest.raises(UnknownRevision):
        table.rollback(number)


def test_old_revisions_are_forgotten_so_that_memory_is_bounded(table):
    for _ in range(REVISIONS_KEPT + 5):
        table.assign({0: double})
    assert len(table.revisions()) == REVISIONS_KEPT
    with pytest.raises(UnknownRevision):
        table.rollback(3)


def test_slots_are_added_and_taken_at_the_end_and_set_ones_never(table):
    table.resize(6)
    table.assign({5: double})
    with pytest.raises(InvalidArgument, match="slot 5 is set"):
        table.resize(5)
    table.assign({5: None})
    table.resize(2)
    assert len(table.current().slots) == 2


@pytest.mark.parametrize("stages", [0, -1, 65])
def test_a_table_has_between_1_and_64_slots(table, clock, stages):
    with pytest.raises(InvalidArgument):
        SlotTable(stages, clock)
    with pytest.raises(InvalidArgument):
        table.resize(stages)


def test_a_rollback_over_a_resize_brings_back_the_number_of_slots(table):
    table.assign({3: double})
    table.resize(6)
    table.rollback(1)
    assert functions(table) == [None, None, None, double]


# --- the machine's face of it ----------------------------------------------------------------


def test_an_unset_slot_reads_as_identity(machine):
    assert machine[3]("x") == "x"
    assert machine[0:2][1]("y") == "y"


def test_slots_are_set_read_and_deleted_like_a_list(machine):
    machine[0:2] = [double, increment]
    assert machine.revision == 1
    assert machine[0] is double
    assert machine[0:2] == [double, increment]
    assert len(machine) == 8
    assert len(list(machine)) == 8
    del machine[0:2]
    assert machine.revision == 2
    machine[-1] = double
    assert machine[7] is double
    del machine[-1]
    assert machine(1).values == (1,) * 8


def test_setting_identity_itself_unsets_a_slot(machine):
    machine[0] = double
    machine[0] = machine[5]
    assert machine.slots[0].identity


def test_a_slice_takes_as_many_functions_as_it_has_slots(machine):
    with pytest.raises(InvalidArgument, match="1 for 2 slots"):
        machine[0:2] = [double]
    with pytest.raises(SlotOutOfRange):
        machine[8] = double
    with pytest.raises(SlotOutOfRange):
        machine[8]


def test_slots_tell_people_what_they_hold(machine):
    machine.set(2, double, name="twice", author="ada")
    info = machine.slots[2]
    assert (info.slot, info.name, info.function) == (2, "twice", "test_slots.double")
    assert (info.author, info.revision) == ("ada", 1)
    assert (info.values, info.texts, info.identity) == (1, 0, False)
    assert machine["twice"] is double
    assert machine.revisions[-1].functions == [None, None, "test_slots.double", *[None] * 5]


def test_each_change_is_an_event_with_its_author(machine, records):
    machine.set(0, double, author="ada")
    machine.rollback(0, author="bob")
    machine.configure(stages=9, author="eve")
    assert machine.event_log.flush(5.0)
    assert [(event.kind, event.author, event.data["change"]) for event in records.events] == [
        ("slot_changed", "ada", "set 0"),
        ("slot_changed", "bob", "rollback to 0"),
        ("slot_changed", "eve", "9 slots"),
    ]


def test_a_machine_of_no_slots_or_too_many_is_refused():
    for stages in (0, 65):
        with pytest.raises(InvalidArgument):
            Machine(stages, serve=False)


def test_counts_belong_to_a_function_in_its_place(machine, records):
    machine[0] = double
    for n in range(3):
        machine.put(n)
    machine.put("x" * 3)
    machine[1] = increment
    machine.start()
    records.wait_for(4)
    machine.stop()
    counts = machine.status.slots
    assert [(c.slot, c.calls, c.errors, c.skipped) for c in counts] == [(0, 4, 0, 0), (1, 4, 1, 0)]
    machine[1] = double
    assert machine.status.slots[1].calls == 0


class Model:
    """Looks like a trained model."""

    def fit(self, rows): ...
    def predict(self, rows): ...


class Table:
    """Looks like a data frame."""

    loc = iloc = None

    def transform(self): ...


@pytest.mark.parametrize(
    ("thing", "advice"),
    [
        (Model(), r"Model is not callable; assign its method \.predict$"),
        (re.compile("a"), r"Pattern is not callable; assign one of its methods: \.match, \.search, \.findall$"),
        ({"a": 1}, r"dict is not callable; assign its method \.get$"),
        (Table(), r"a table is looked up by a function: m\[1\] = lambda key: table\.loc\[key\]$"),
        ([str, int], r"fill several slots with a slice: m\[1:3\] = \[f, g\]$"),
        (iter("ab"), r"m\.source = "),
        (re, r"module is not callable; assign one of its functions$"),
        (5, r"int is not callable; assign a function, or del the slot$"),
        (b"text", r"bytes is not callable; assign a function, or del the slot$"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_object_that_cannot_be_called_is_refused_with_what_it_is_good_for(thing, advice):
    with Machine(2, serve=False) as machine, pytest.raises(NotCallable, match=advice):
        machine[1] = thing
