"""Which topics have subscribers: ``router-config/timbr_interest.py`` against a model of the router's broker."""

from __future__ import annotations

import itertools
import random
import sys
from importlib import util
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.contract import TOPICS

CONFIG = Path(__file__).parents[2] / "router-config"
KERNEL, OTHER = "lab_0123456789ab", "lab_2_0123456789ab"
K = f"io.timbr.kernel.{KERNEL}"


@pytest.fixture(scope="module")
def module() -> Any:
    """``timbr_interest`` as the router's worker imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(CONFIG)
        spec = util.spec_from_file_location("timbr_interest", CONFIG / "timbr_interest.py")
        assert spec is not None
        assert spec.loader is not None
        loaded = util.module_from_spec(spec)
        patch.setitem(sys.modules, "timbr_interest", loaded)  # its dataclasses look it up
        spec.loader.exec_module(loaded)
        yield loaded


@pytest.fixture
def interest(module: Any) -> Any:
    return new_interest(module)


def new_interest(module: Any) -> Any:
    return module.Interest(TOPICS["kernel"], TOPICS["machine"], lambda: 1000.0)


def info(kernel_id: str = KERNEL, *machines: str) -> dict[str, Any]:
    return {"kernel_id": kernel_id, "machines": [{"name": name} for name in machines]}


# --- examples --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "match", "wanted"),
    [
        (f"{K}.machine", "exact", ["machine"]),
        (f"{K}.machine.records", "exact", ["machine.records"]),
        (f"{K}.iopub", "exact", ["iopub"]),
        (f"io.timbr.kernel.{OTHER}.iopub", "exact", []),
        (f"{K}.mach", "prefix", ["machine", *(f"machine.{name}" for name in TOPICS["machine"] if name)]),
        (f"{K}.machine.rec", "prefix", ["machine.records"]),
        (f"{K}.other", "prefix", []),
        ("io.timbr.kernel..machine", "wildcard", ["machine"]),
        ("io.timbr.kernel...status", "wildcard", ["machine.status"]),
        ("io.timbr.kernel.", "wildcard", []),
        ("io.timbr.kernel..other", "wildcard", []),
    ],
)
def test_exact_prefix_and_wildcard_subscriptions_all_count(
    interest: Any, uri: str, match: str, wanted: list[str]
) -> None:
    interest.answered(1, uri, match, 1)
    assert interest.announced(info(KERNEL, "machine"))["topics"] == wanted


def test_a_prefix_of_all_kernels_wants_everything_of_each(interest: Any) -> None:
    assert interest.announced(info(KERNEL, "machine"))["topics"] == []
    assert interest.announced(info(OTHER))["topics"] == []
    interest.answered(1, "io.timbr.kernel.", "prefix", 1)
    told = {each["kernel_id"]: each["topics"] for each in interest.changes()}
    assert told[OTHER] == list(TOPICS["kernel"])
    assert len(told[KERNEL]) == len(TOPICS["kernel"]) + len(TOPICS["machine"])


def test_only_the_kernel_whose_interest_changed_is_told_and_once(interest: Any) -> None:
    first, second = interest.announced(info()), interest.announced(info(OTHER))
    interest.answered(1, f"{K}.iopub", "exact", 1)
    (told,) = interest.changes()
    assert (told["kernel_id"], told["topics"]) == (KERNEL, ["iopub"])
    assert told["number"] > second["number"] > first["number"] > 1000.0 * 1e6
    interest.answered(1, f"{K}.iopub", "exact", 5)
    interest.answered(2, f"{K}.ping", "exact", 1)
    assert interest.changes() == []


def test_a_change_that_was_taken_back_is_not_told(interest: Any) -> None:
    interest.announced(info())
    interest.answered(1, f"{K}.iopub", "exact", 1)
    interest.gone(1)
    assert interest.changes() == []


def test_a_subscription_that_a_retained_event_keeps_is_no_interest(interest: Any) -> None:
    interest.announced(info())
    interest.answered(1, f"{K}.state", "exact", 0)
    assert interest.changes() == []
    interest.answered(1, f"{K}.state", "exact", 1)
    assert [each["topics"] for each in interest.changes()] == [["state"]]
    interest.answered(1, f"{K}.state", "exact", 0)
    assert [each["topics"] for each in interest.changes()] == [[]]


def test_a_machine_that_comes_later_is_in_the_next_answer(interest: Any) -> None:
    interest.answered(1, f"{K}.filter.records", "exact", 1)
    assert interest.announced(info(KERNEL, "machine"))["topics"] == []
    assert interest.announced(info(KERNEL, "machine", "filter"))["topics"] == ["filter.records"]


def test_a_kernel_without_a_bridge_is_told_nothing(interest: Any) -> None:
    interest.announced(info())
    interest.answered(1, f"{K}.iopub", "exact", 1)
    interest.left(KERNEL)
    interest.left(KERNEL)
    assert interest.changes() == []
    assert interest.announced(info())["topics"] == ["iopub"]


@pytest.mark.parametrize("machines", [None, 7, "machine", [7, None, {}, {"name": 7}, {"name": ["a"]}]])
def test_an_announcement_without_a_list_of_machines_has_the_kernels_topics(interest: Any, machines: object) -> None:
    interest.answered(1, "", "prefix", 1)
    assert interest.announced({"kernel_id": KERNEL, "machines": machines})["topics"] == list(TOPICS["kernel"])


# --- against a model of the broker ------------------------------------------------------------

URIS = (
    (f"{K}.iopub", "exact"),
    (f"{K}.state", "exact"),
    (f"{K}.machine.status", "exact"),
    (f"io.timbr.kernel.{OTHER}.iopub", "exact"),
    (f"{K}.machine", "prefix"),
    ("io.timbr.", "prefix"),
    ("io.timbr.kernel..iopub", "wildcard"),
    ("io.timbr.kernel...status", "wildcard"),
)


class Broker:
    """Crossbar's subscriptions and the meta events about them, with all that those leave out.

    After an unclean end no event has a wamp session; a retained event makes a subscription in silence, which
    then stays without subscribers and is not created again; ``on_delete`` of a session with several
    subscriptions comes for all of them or for none, as for the last one.
    """

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self.numbers: dict[tuple[str, str], int] = {}
        self.subscribers: dict[tuple[str, str], set[int]] = {}
        self._retained: set[tuple[str, str]] = set()
        self.events: list[Any] = []

    def _make(self, key: tuple[str, str]) -> None:
        self.numbers[key], self.subscribers[key] = next(self._numbers), set()

    def retain(self, key: tuple[str, str]) -> None:
        if key[1] == "exact":
            if key not in self.numbers:
                self._make(key)
            self._retained.add(key)

    def subscribe(self, who: int, key: tuple[str, str]) -> None:
        if key not in self.numbers:
            self._make(key)
            self.events.append({"id": self.numbers[key], "uri": key[0], "match": key[1]})
        if who not in self.subscribers[key]:
            self.subscribers[key].add(who)
            self.events.append(self.numbers[key])

    def unsubscribe(self, who: int, key: tuple[str, str]) -> None:
        if who in self.subscribers.get(key, ()):
            number, deleted = self._drop(who, key)
            self.events += [number, number] if deleted else [number]

    def leave(self, who: int) -> None:
        held = [key for key, subscribers in self.subscribers.items() if who in subscribers]
        dropped = [self._drop(who, key) for key in held]
        for number, _ in dropped:
            self.events += [number, number] if dropped[-1][1] else [number]

    def _drop(self, who: int, key: tuple[str, str]) -> tuple[int, bool]:
        self.subscribers[key].discard(who)
        deleted = not self.subscribers[key] and key not in self._retained
        number = self.numbers[key]
        if deleted:
            del self.numbers[key], self.subscribers[key]
        return number, deleted

    def answer(self, interest: Any, number: int) -> None:
        for (uri, match), known in self.numbers.items():
            if known == number:
                interest.answered(number, uri, match, len(self.subscribers[uri, match]))
                return
        interest.gone(number)

    def wanted(self, topic: str) -> bool:
        def fits(uri: str, match: str) -> bool:
            if match == "prefix":
                return topic.startswith(uri)
            parts, pattern = topic.split("."), uri.split(".")
            same = len(parts) == len(pattern) and all(p in ("", part) for p, part in zip(pattern, parts, strict=True))
            return same if match == "wildcard" else topic == uri

        return any(subscribers and fits(*key) for key, subscribers in self.subscribers.items())


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("subscribe"), st.integers(1, 3), st.sampled_from(URIS)),
        st.tuples(st.just("unsubscribe"), st.integers(1, 3), st.sampled_from(URIS)),
        st.tuples(st.just("retain"), st.just(0), st.sampled_from(URIS)),
        st.tuples(st.just("leave"), st.integers(1, 3), st.just(URIS[0])),
        st.tuples(st.just("deliver"), st.integers(1, 4), st.just(URIS[0])),
        st.tuples(st.just("ask"), st.integers(0, 1), st.just(URIS[0])),
        st.tuples(st.just("announce"), st.integers(0, 2), st.just(URIS[0])),
        st.tuples(st.just("bridge leaves"), st.integers(0, 1), st.just(URIS[0])),
    ),
    max_size=60,
)


@given(STEPS, st.integers())
def test_every_bridge_knows_what_is_wanted_when_the_events_have_come(
    module: Any, steps: list[tuple[str, int, tuple[str, str]]], seed: int
) -> None:
    interest, broker, chance = new_interest(module), Broker(), random.Random(seed)
    machines: dict[str, tuple[str, ...]] = {}
    known: dict[str, dict[str, Any]] = {}

    def told(each: dict[str, Any]) -> None:
        assert each["kernel_id"] in machines
        assert each["number"] > known.get(each["kernel_id"], {"number": 0})["number"]
        known[each["kernel_id"]] = each

    def deliver(count: int) -> None:
        events, broker.events = broker.events[:count], broker.events[count:]
        for event in events:
            interest.touched(event["id"] if isinstance(event, dict) else event)

    def ask() -> None:
        asked = interest.to_ask()
        for number in asked:
            broker.answer(interest, number)
        for each in interest.changes():
            told(each)

    for verb, number, key in steps:
        kernel_id = (KERNEL, OTHER)[number % 2]
        match verb:
            case "subscribe":
                broker.subscribe(number, key)
            case "unsubscribe":
                broker.unsubscribe(number, key)
            case "retain":
                broker.retain(key)
            case "leave":
                broker.leave(number)
            case "deliver":
                deliver(number)
            case "ask":
                ask()
            case "announce":
                machines[kernel_id] = ("machine", "filter")[:number]
                told(interest.announced(info(kernel_id, *machines[kernel_id])))
            case "bridge leaves":
                interest.left(kernel_id)
                machines.pop(kernel_id, None)
                known.pop(kernel_id, None)
        if chance.random() < 0.2:
            deliver(len(broker.events))
            ask()
    deliver(len(broker.events))
    ask()
    assert interest.to_ask() == []
    for kernel_id, names in machines.items():
        prefix = f"io.timbr.kernel.{kernel_id}."
        topics = [*TOPICS["kernel"], *(f"{m}.{t}" if t else m for m in names for t in TOPICS["machine"])]
        assert known[kernel_id]["topics"] == [name for name in topics if broker.wanted(prefix + name)]
