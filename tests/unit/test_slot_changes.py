"""Every change of the slots takes the same path, wherever it is made and whatever is prepared meanwhile."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import pytest
from machine_kit import LIMIT_S, Gate
from wait_kit import wait_until

from timbr_wamp.contract import FunctionRef
from timbr_wamp.errors import InvalidArgument, InvalidSource, NotCallable, PrepFailed, TimbrError
from timbr_wamp.machine import Machine
from timbr_wamp.machine.slots.functions import load
from timbr_wamp.machine.slots.source_lines import TEXTS_KEPT


class Node:
    """Calls ``during`` in its ``prep``."""

    def __init__(self, during: Any = lambda: None) -> None:
        self.during, self.log = during, list[str]()

    def prep(self) -> None:
        self.log.append("prep")
        self.during()

    def step(self, message: object) -> object:
        return message

    def teardown(self) -> None:
        self.log.append("teardown")


class AsyncNode(Node):
    async def prep(self) -> None:  # type: ignore[override]
        self.log.append("prep")
        self.during()


@pytest.fixture(params=[Node, AsyncNode])
def node(request) -> Any:
    return request.param


VERBS = {
    "set": lambda m: m.set(1, str),
    "text": lambda m: m.set(1, "lambda x: str(x)"),
    "delete": lambda m: m.__delitem__(1),
    "policy": lambda m: m.set_policy(1, "drop"),
    "resize": lambda m: m.resize(5),
    "rollback": lambda m: m.rollback(0),
    "another object": lambda m: m.set(1, Node()),
    "start": lambda m: m.start(),
    "start and stop": lambda m: (m.start(), m.stop()),
    "put": lambda m: m.put(1),
    "call": lambda m: m(1),
    "slots": lambda m: (m.slots, m.revisions, m.status),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_prep_may_use_every_verb_of_its_machine(machine, node, verb):
    one = node(lambda: VERBS[verb](machine))
    machine[0] = one
    assert machine[0] is one
    assert one.log == ["prep"]
    assert [info.number for info in machine.revisions] == list(range(machine.revision + 1))


def test_what_a_prep_set_stays_set(machine, node):
    machine[0] = node(lambda: machine.set(3, str, name="text"))
    assert machine["text"] is str
    assert machine(1).values[3] == "1"
    assert machine.revision == 2


def test_a_prep_that_sets_its_own_slot_is_overruled_by_the_change_it_is_part_of(machine, node):
    one = node(lambda: machine.set(0, str))
    machine[0] = one
    assert machine[0] is one


def test_a_prep_that_puts_its_own_object_in_a_slot_fails(machine):
    one = Node(lambda: machine.set(2, one))
    with pytest.raises(PrepFailed, match="runs already"):
        machine[0] = one
    assert machine.revision == 0
    assert one.log == ["prep"]


def test_a_prep_that_closes_its_machine_fails_and_is_torn_down(machines, node):
    machine = machines()
    one = node(machine.close)
    if node is AsyncNode:  # the loop ends under the coroutine
        with pytest.raises(TimbrError):
            machine[0] = one
        return
    with pytest.raises(PrepFailed, match="closed"):
        machine[0] = one
    assert one.log == ["prep", "teardown"]


def test_an_object_may_change_slots_when_it_is_made_and_when_it_is_torn_down(machine):
    class Changes(Node):
        def __init__(self) -> None:
            super().__init__()
            machine[4] = str

        def teardown(self) -> None:
            machine[5] = str

    machine[0] = Changes()
    del machine[0]
    wait_until(lambda: machine[5] is str, "teardown did not set its slot")
    assert machine[4] is str


class Exits(Node):
    def prep(self) -> None:
        raise SystemExit


class ExitsAsync(Node):
    async def prep(self) -> None:  # type: ignore[override]
        raise SystemExit

    async def teardown(self) -> None:  # type: ignore[override]
        raise KeyboardInterrupt


@pytest.mark.parametrize("kind", [Exits, ExitsAsync])
def test_a_prep_that_exits_is_a_prep_that_failed(machine, kind):
    for _ in range(2):
        with pytest.raises(PrepFailed, match="SystemExit"):
            machine[0] = kind()
    assert machine(1).values[0] == 1


def test_a_teardown_that_exits_keeps_no_other_from_being_torn_down(machine, records):
    class Leaves(Node):
        def teardown(self) -> None:
            raise SystemExit

    class LeavesAsync(Node):
        async def teardown(self) -> None:  # type: ignore[override]
            raise SystemExit

    last = Node()
    machine[0:3] = [Leaves(), LeavesAsync(), last]
    del machine[0]
    records.wait_for_event("object_failed")
    del machine[1:3]
    wait_until(lambda: len(last.log) >= 2, "it is torn down")
    assert last.log == ["prep", "teardown"]


def test_a_teardown_that_hangs_delays_no_other(machine, gate):
    class Hangs(Node):
        def teardown(self) -> None:
            gate(None)

    last = Node()
    machine[0:2] = [Hangs(), last]
    del machine[0]
    gate.wait_until_entered()
    del machine[1]
    wait_until(lambda: len(last.log) >= 2, "it is torn down")
    assert last.log == ["prep", "teardown"]


def test_a_plain_prep_that_gives_a_coroutine_has_it_awaited(machine):
    done = threading.Event()

    async def prepared() -> None:
        done.set()

    class Later(Node):
        def prep(self) -> Any:
            return prepared()

    machine[0] = Later()
    assert done.is_set()


class Slow:
    """Changes slot 0 in a thread, to an object whose prep waits for a gate."""

    def __init__(self, machine: Machine, gate: Gate, one: Node) -> None:
        one.during = lambda: gate(None)
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._set, args=(machine, one), daemon=True)
        self.thread.start()
        gate.wait_until_entered()

    def _set(self, machine: Machine, one: Node) -> None:
        try:
            machine.set(0, one, author="slow")
        except TimbrError as error:
            self.error = error

    def join(self) -> None:
        self.thread.join(LIMIT_S)
        assert not self.thread.is_alive(), "the change never ended"


def test_other_changes_go_on_while_a_prep_is_slow_and_none_is_lost(machine, gate):
    one = Node()
    slow = Slow(machine, gate, one)
    machine[1] = str
    machine.set(0, float, policy="drop")
    machine.resize(9)
    assert machine.revision == 3
    gate.open()
    slow.join()
    assert (machine[0], machine[1], len(machine)) == (one, str, 9)
    assert machine.policy_of(0).on_error == "drop"
    assert [(info.number, info.author) for info in machine.revisions] == [
        (0, None), (1, None), (2, None), (3, None), (4, "slow"),
    ]  # fmt: skip
    assert one.log == ["prep"]


def test_a_change_that_can_no_longer_be_made_after_a_slow_prep_is_refused_and_torn_down(machine, gate):
    one = Node()
    machine.set(0, str, name="first")
    one.during = lambda: gate(None)
    error: list[BaseException] = []

    def change() -> None:
        try:
            machine.set("first", one)
        except TimbrError as failure:
            error.append(failure)

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    gate.wait_until_entered()
    del machine["first"]
    gate.open()
    thread.join(LIMIT_S)
    assert type(error[0]).__name__ == "UnknownSlot"
    assert one.log == ["prep", "teardown"]


def test_one_object_that_two_threads_set_is_prepared_once(machine, gate):
    one = Node()
    slow = Slow(machine, gate, one)
    other = threading.Thread(target=lambda: machine.set(2, one), daemon=True)
    other.start()
    gate.open()
    slow.join()
    other.join(LIMIT_S)
    assert (machine[0], machine[2]) == (one, one)
    assert one.log == ["prep"]


def test_closing_does_not_wait_for_a_prep_that_hangs(machines, gate):
    machine, one = machines(), Node()
    slow = Slow(machine, gate, one)
    machine.close()
    gate.open()
    slow.join()
    assert isinstance(slow.error, PrepFailed)
    assert one.log == ["prep", "teardown"]


# --- hooks ---


@pytest.mark.parametrize("point", ["pre_change", "post_change"])
def test_a_hook_around_a_change_may_change_slots_and_is_not_called_for_that(machine, point):
    calls: list[object] = []

    def hook(argument: object) -> None:
        calls.append(argument)
        machine[5] = str

    machine.hook(point, hook)
    machine[0] = float
    assert (machine[0], machine[5]) == (float, str)
    assert (len(calls), machine.revision) == (1, 2)
    machine[1] = float
    assert len(calls) == 2
    assert machine.status.hook_failures == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.set(1, float), lambda m: m.assign({1: str}), lambda m: m.__delitem__(0), lambda m: m.rollback(0),
        lambda m: m.resize(12), lambda m: m.set_policy(0, "drop"), lambda m: m.set_policy(None, "drop"),
        lambda m: m.configure(stages=11), lambda m: m.set(1, "lambda x: x"),
    ],
)  # fmt: skip
def test_every_kind_of_change_has_hooks_before_and_after_it(machine, change):
    machine[0] = str
    seen: list[str] = []
    machine.hook("pre_change", lambda _: seen.append(f"before {machine.revision}"))
    machine.hook("post_change", lambda info: seen.append(f"after {info.number}"))
    change(machine)
    assert seen == ["before 1", "after 2"]


# --- source text ---


def test_local_source_text_is_treated_like_remote_source_text(machine):
    machine[0] = "lambda x: x + 1"
    machine[1] = "def f(x):\n    return x * 2"
    machine[2:4] = ["lambda x: x - 1", FunctionRef(kind="reference", text="builtins:str")]
    assert machine(1).values[:4] == (2, 4, 3, "3")
    assert machine.slots[0].source == "lambda x: x + 1"
    with pytest.raises(InvalidSource):
        machine[0] = "no function at all"
    with pytest.raises(NotCallable, match="slot 0: int is what the text gives, no function; write a lambda or a def"):
        machine[0] = "5"
    with pytest.raises(NotCallable, match="slot 0: None is what the text gives"):
        machine[0] = "print('hi')"
    assert machine.revision == 3


def test_source_text_sees_the_machines_namespace(machines):
    machine = machines(namespace={"factor": 3})
    machine[0] = "lambda x: x * factor"
    assert machine(2).values[0] == 6


class Frame:
    """Something large in a notebook."""


def collected(reference: weakref.ref[Frame]) -> bool:
    gc.collect()
    return reference() is None


def test_text_keeps_alive_only_what_it_uses(machines):
    namespace: dict[str, object] = {"df": Frame(), "used": Frame(), "row": {"df": 1}}
    frame, used = weakref.ref(namespace["df"]), weakref.ref(namespace["used"])
    machine = machines(namespace=namespace)
    machine[0] = "def f(x):\n    return [used is not None, row['df'], x.df if x else 0]"
    namespace.clear()
    assert collected(frame)
    assert not collected(used)
    assert machine(0).values[0] == [True, 1, 0]


def test_earlier_revisions_keep_texts_and_not_what_their_functions_used(machines):
    namespace: dict[str, object] = {"df": Frame()}
    frame = weakref.ref(namespace["df"])
    machine = machines(namespace=namespace)
    for number in range(5):
        machine[0] = f"lambda x: (df, {number})[1]"
    machine[0] = str
    del namespace["df"]
    assert collected(frame)
    assert [info.functions[0] for info in machine.revisions] == [None, *["<lambda>"] * 5, "str"]


def test_only_the_newest_texts_keep_their_lines_so_that_memory_is_bounded(machine):
    machine[0] = "lambda x: x.first"
    for number in range(TEXTS_KEPT):
        load(FunctionRef(kind="source", text=f"lambda x: {number}"))
    assert "x.first" not in machine(1).outcomes[0].value["_exception"]["exc_tb"]
    machine[0] = "lambda x: x.first"
    assert "x.first" in machine(1).outcomes[0].value["_exception"]["exc_tb"]


def test_a_rollback_makes_functions_of_their_texts_again(machines):
    namespace: dict[str, object] = {"factor": 3}
    machine = machines(namespace=namespace)
    machine.set(0, "lambda x: x * factor", name="times", policy="drop", author="ada")
    machine[0] = str
    namespace["factor"] = 10
    machine.rollback(1)
    assert machine(2).values[0] == 20
    (slot,) = [slot for slot in machine.slots if not slot.identity]
    assert (slot.name, slot.source, slot.author, slot.policy.on_error) == (
        "times", "lambda x: x * factor", "ada", "drop",
    )  # fmt: skip
    machine.rollback(0)
    machine.rollback(3)
    assert machine(2).values[0] == 20


def test_a_rollback_leaves_a_function_that_is_still_in_its_slot(machines):
    machine = machines()
    machine[0] = "calls = []\nlambda x: calls.append(x) or len(calls)"
    machine(1)
    machine[1] = str
    machine.rollback(1)
    assert machine(1).values[0] == 2


def test_a_rollback_to_a_text_that_gives_nothing_any_more_changes_nothing(machines):
    namespace: dict[str, object] = {"made": str}
    machine = machines(namespace=namespace)
    machine[0] = "made"
    machine[0] = float
    del namespace["made"]
    with pytest.raises(InvalidSource, match="made"):
        machine.rollback(1)
    assert (machine.revision, machine[0]) == (2, float)


def test_an_object_made_of_text_is_made_and_prepared_again(machines):
    log: list[str] = []
    machine = machines(namespace={"log": log})
    machine[0] = (
        "class Node:\n def prep(self): log.append('prep')\n def step(self, x): return x\n"
        " def teardown(self): log.append('teardown')\nNode()"
    )
    del machine[0]
    wait_until(lambda: log == ["prep", "teardown"], "not torn down")
    machine.rollback(1)
    assert log == ["prep", "teardown", "prep"]


def test_messages_under_way_keep_a_function_made_of_text(machines, gate):
    machine = machines(namespace={"gate": gate})
    machine[0] = "lambda x: gate(x) + 1"
    machine.start()
    machine.put(1)
    gate.wait_until_entered()
    machine[0] = str
    machine[0] = float
    gate.open()
    assert machine.wait(LIMIT_S)
    assert machine.recent(1)[0].values[0] == 2


def test_one_slot_given_by_number_and_by_name_is_refused(machine):
    machine.set(0, str, name="clean")
    with pytest.raises(InvalidArgument, match="named twice"):
        machine.assign({"clean": str, 0: float})
    machine.assign({"clean": float, -1: str}, policies={"clean": "drop"})
    assert (machine[0], machine[7], machine.policy_of("clean").on_error) == (float, str, "drop")


@pytest.mark.parametrize(
    "given", [{"names": {1: "b"}}, {"sources": {"clean": "f"}}, {"policies": {-8: "drop"}}], ids=str
)
def test_what_is_said_of_a_slot_that_gets_no_function_is_refused(machine, given):
    machine.set(0, str, name="clean")
    with pytest.raises(InvalidArgument, match="is not among"):
        machine.assign({0: float}, **given)
    assert machine[0] is str


def test_an_object_that_is_false_or_empty_is_in_its_slot(machine):
    class Collects(list):  # type: ignore[type-arg]
        def __call__(self, value: object) -> int:
            self.append(value)
            return len(self)

    one = Collects()
    machine[0] = one
    assert machine[0] is one
    assert machine[0:1][0] is one
    assert machine(5).values[0] == 1


# --- functions that were changed in place --------------------------------------------------------


def in_place(old: Any, new: Any) -> None:
    """Change a function as IPython's ``%autoreload`` does."""
    old.__code__, old.__defaults__ = new.__code__, new.__defaults__


class Step:
    def step(self, message: object) -> object:
        return ("old", message)


def test_a_function_that_was_changed_in_place_makes_a_revision_when_it_is_noticed(machines):
    machine = machines(stages=3)

    def plus(x: int) -> int:
        return x + 1

    machine.set(1, plus, name="plus", policy="drop")
    machine.set(2, Step())
    before = machine.revision
    assert len(machine.revisions) == before + 1  # looking makes none
    assert "x + 1" in machine.slots[1].source

    def minus(x: int, first: int) -> int:
        return x - first

    in_place(plus, minus)
    noticed = machine.slots[1]
    assert (machine.revision, noticed.revision) == (before + 1, before + 1)
    assert (noticed.name, noticed.values, noticed.policy.on_error) == ("plus", 2, "drop")
    assert "x - first" in noticed.source
    assert machine.revisions[-1].change == "f1 changed in place"
    assert [event.data for event in machine.events()][-1] == {"revision": before + 1, "change": "f1 changed in place"}
    assert machine(5).values == (5, 0, ("old", 0))
    assert machine.revision == before + 1  # noticed once

    old_code = Step.step.__code__
    try:
        in_place(Step.step, lambda self, message: ("new", message))
        machine.start()
    finally:
        Step.step.__code__ = old_code
    assert machine.revisions[-2].change == "f2 changed in place"
    assert machine.revisions[-1].change == "f2 changed in place"  # and back


def test_a_function_that_no_message_can_satisfy_any_more_stays_and_fails(machines):
    machine = machines(stages=1)

    def needs(x: int) -> int:
        return x

    def needs_more(a: int, b: int, c: int, d: int, e: int) -> int:
        return a

    machine[0] = needs
    in_place(needs, needs_more)
    assert machine.slots[0].revision == machine.revision == 2
    assert "missing" in str(machine(1).values[0]["_exception"]["exc_value"])
    assert machine.revision == 2
