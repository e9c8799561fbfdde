"""For random tests of machines: slot functions with a known result, and a checker of records.

What a record must hold is computed here, independently of `timbr_wamp.machine`.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import zlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from inspect import Parameter, Signature
from typing import Any

import orjson

from timbr_wamp.contract import Policy, Record, outcome_kind

#: Kinds of messages; a function fails for at most one of them.
KINDS = range(3)
#: Verdicts after which no later slot runs.
FINAL = ("drop", "dead_letter", "pause", "stop")


class SlotError(ValueError):
    """Raised by the slot functions."""


class Observed:
    """What the functions and sources of one test saw. Any thread."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        #: Who put a message, by its number.
        self.producer: dict[int, str] = {}
        #: How often slots raised for a message, by its number.
        self.raised: Counter[int] = Counter()
        #: Descriptions of what must never happen.
        self.violations: list[str] = []
        self.nodes: list[Node] = []

    def message(self, producer: str, kind: int) -> dict[str, int]:
        """Return a new message with a number of its own."""
        number = next(self._numbers)
        self.producer[number] = producer
        return {"n": number, "k": kind}


# --- slot functions ---


@dataclass(frozen=True)
class Spec:
    """Describes a slot function."""

    uid: int
    #: Required parameters; -1: ``*args``.
    arity: int
    #: It raises for messages of this kind: always, or the first ``times`` calls for each message.
    fails_on: int = -1
    times: int | None = None
    is_async: bool = False
    is_object: bool = False

    def given(self, values: list[Any]) -> list[Any]:
        """Return what it is called with when ``values`` are ``[in, f0, …]``: newest first, then their texts."""
        newest_first = values[::-1]
        if self.arity < 0:
            return newest_first
        texts = [orjson.dumps(value).decode() for value in newest_first]
        return newest_first[: self.arity] + texts[: max(self.arity - len(values), 0)]

    def value(self, arguments: list[Any]) -> dict[str, int]:
        """Return what it gives."""
        number, kind = about(arguments)
        return {"n": number, "k": kind, "f": self.uid, "h": zlib.crc32(orjson.dumps(arguments))}

    def may(self, arguments: list[Any]) -> tuple[bool, bool]:
        """Return whether it may succeed, and whether it may fail."""
        concerned = self.fails_on in KINDS and about(arguments)[1] == self.fails_on
        return not concerned or self.times is not None, concerned


def about(arguments: list[Any]) -> tuple[int, int]:
    """Return number and kind of the message that a value belongs to; ``(0, -1)`` when unknown."""
    first = arguments[0] if arguments else None
    return (first["n"], first["k"]) if isinstance(first, dict) and "n" in first else (0, -1)


def make_function(spec: Spec, observed: Observed) -> Any:
    """Return the function or object that ``spec`` describes."""
    calls: Counter[int] = Counter()
    names = [Parameter(f"a{n}", Parameter.POSITIONAL_ONLY) for n in range(max(spec.arity, 0))]
    signature = Signature(names if spec.arity >= 0 else [Parameter("args", Parameter.VAR_POSITIONAL)])

    def run(*arguments: Any) -> Any:
        given = list(arguments)
        if spec.may(given)[1]:
            number = about(given)[0]
            calls[number] += 1
            if spec.times is None or calls[number] <= spec.times:
                observed.raised[number] += 1
                raise SlotError(f"f{spec.uid} does not take {number}")
        return spec.value(given)

    async def run_async(*arguments: Any) -> Any:
        await asyncio.sleep(0)
        return run(*arguments)

    function: Any = run_async if spec.is_async else run
    function.__signature__ = signature
    return Node(function, signature, observed, spec.is_async) if spec.is_object else function


class Node:
    """An object in a slot that counts how often it is opened and closed."""

    def __init__(self, function: Any, signature: Signature, observed: Observed, is_async: bool) -> None:
        self._function, self._observed = function, observed
        self._lock = threading.Lock()
        self.opened = self.closed = 0
        self.step = self._step_async() if is_async else self._step()
        self.step.__signature__ = signature  # type: ignore[attr-defined]
        observed.nodes.append(self)

    def prep(self) -> None:
        """Open it."""
        with self._lock:
            self.opened += 1
            self._check("after prep")

    def teardown(self) -> None:
        """Close it."""
        with self._lock:
            self.closed += 1
            self._check("after teardown")

    def _step(self) -> Any:
        def step(*arguments: Any) -> Any:
            self._check_open()
            value = self._function(*arguments)
            self._check_open()
            return value

        return step

    def _step_async(self) -> Any:
        async def step(*arguments: Any) -> Any:
            self._check_open()
            value = await self._function(*arguments)
            self._check_open()
            return value

        return step

    def _check_open(self) -> None:
        if self.opened - self.closed != 1:
            self._observed.violations.append(f"a step of an object opened {self.opened}, closed {self.closed} times")

    def _check(self, when: str) -> None:
        if self.opened - self.closed not in (0, 1):
            self._observed.violations.append(f"{when}: opened {self.opened}, closed {self.closed} times")


class BrokenNode(Node):
    """An object that cannot be opened."""

    def prep(self) -> None:
        """Fail."""
        raise OSError("no such device")


# --- slot tables, as the test knows them ---


@dataclass(frozen=True)
class Table:
    """The functions and policies of one revision."""

    specs: tuple[Spec | None, ...]
    own: tuple[Policy | None, ...]
    policy: Policy = field(default_factory=Policy)

    @classmethod
    def empty(cls, stages: int, policy: Policy) -> Table:
        """Return a table of unset slots."""
        return cls((None,) * stages, (None,) * stages, policy)

    def with_slots(self, specs: dict[int, Spec | None], policy: Policy | None = None) -> Table:
        """Return the table with other functions; a slot without function has no policy."""
        new, own = list(self.specs), list(self.own)
        for number, spec in specs.items():
            new[number] = spec
            own[number] = None if spec is None else policy or own[number]
        return replace(self, specs=tuple(new), own=tuple(own))

    def with_policy(self, slot: int | None, policy: Policy | None) -> Table:
        """Return the table with another policy of a slot, or of the machine."""
        if slot is None:
            return replace(self, policy=policy or Policy())
        own = list(self.own)
        own[slot] = policy
        return replace(self, own=tuple(own))

    def resized(self, stages: int) -> Table:
        """Return the table with another number of slots."""
        more = (None,) * (stages - len(self.specs))
        return replace(self, specs=self.specs[:stages] + more, own=self.own[:stages] + more)

    def policy_of(self, slot: int) -> Policy:
        """Return the policy that applies to a slot."""
        return self.own[slot] or self.policy


# --- the checker ---


class RecordChecker:
    """Checks each record when it arrives: numbers, attempts, values; and the order of all at the end."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        #: The tables by revision.
        self.tables: dict[int, Table] = {}
        #: Policies of event handlers that the machine has had.
        self.handlers: list[Policy] = []
        self.records: list[Record] = []
        self.attempts: dict[int, set[int]] = defaultdict(set)
        self.oids: dict[int, str] = {}

    def enter(self, records: list[Record]) -> None:
        """Check the next records."""
        for record in records:
            number = record.input["n"]
            assert record.seq == len(self.records) + 1, "numbers without gaps"
            assert record.attempt not in self.attempts[number], "one record for each attempt"
            assert self.oids.setdefault(number, record.oid) == record.oid, "a message keeps its id"
            self.records.append(record)
            self.attempts[number].add(record.attempt)
            self.check(record)

    def check(self, record: Record) -> None:
        """Fail unless the record's values follow from its input and the revision that it names."""
        table, reported = self.tables[record.revision], dict(record.meta.policies or {})
        assert len(record.values) == len(table.specs)
        values, broken, final = [record.input], [False], "queue" in reported
        wrong = []
        for slot, spec in enumerate(table.specs):
            value, word = record.values[slot], reported.get(f"f{slot}")
            consumed = broken if spec is None or spec.arity < 0 else broken[max(len(broken) - spec.arity, 0) :]
            if spec is None:
                assert value == values[-1], "an unset slot is identity"
                broken.append(broken[-1])
            elif final or (spec.arity != 0 and any(consumed)):
                assert outcome_kind(value) == "skipped"
                assert word is None
                broken.append(True)
                wrong.append(slot)
            else:
                verdict = self._checked_outcome(table.policy_of(slot), spec, spec.given(values), value, word)
                broken.append(verdict not in (None, "default"))
                final = final or verdict in FINAL
                wrong += [slot] if broken[-1] else []
            values.append(value)
        dropped = "queue" in reported or any("drop" in word for word in reported.values())
        assert record.meta.dropped == dropped
        assert record.errored == (bool(wrong) and not dropped)

    def _checked_outcome(
        self, policy: Policy, spec: Spec, arguments: list[Any], value: Any, word: str | None
    ) -> str | None:
        """Return the verdict on a slot's failure; None when it had a value in the end."""
        well, ill = spec.may(arguments)
        reported = word.split(", ") if word else []
        retries = int(reported.pop(0).split()[1]) if reported and reported[0].startswith("retry") else 0
        allowed = [policy, *self.handlers]
        if not reported and outcome_kind(value) == "value":
            assert well
            assert value == spec.value(arguments)
            assert ill or not retries
            assert retries <= max(one.retries for one in allowed)
            return None
        verdict = reported[0] if reported else "record"
        assert ill, f"{spec} failed for {arguments}"
        fitting = [one for one in allowed if one.on_error == verdict and (self.handlers or one.retries == retries)]
        assert fitting, f"{word!r} by {policy}"
        if verdict == "default":
            assert value in [one.default for one in fitting]
        else:
            assert outcome_kind(value) == "error"
            assert value["_exception"]["exc_class"] == "SlotError"
            assert f"f{spec.uid} does not take" in value["_exception"]["exc_value"]
        return verdict

    def check_order(self) -> None:
        """Fail unless the first attempts of each producer's messages were recorded in order.

        Except messages that waited for a retry, were kept by a policy, or dropped by a source's policy.
        """
        last: dict[str, int] = {}
        for record in self.records:
            number, reported = record.input["n"], record.meta.policies or {}
            if record.attempt > 1 or "queue" in reported or self._waited(record):
                continue
            producer = self._observed.producer[number]
            assert last.get(producer, 0) < number, f"{number} of {producer} came after {last[producer]}"
            last[producer] = number

    def _waited(self, record: Record) -> bool:
        words = (record.meta.policies or {}).values()
        if any("retry" in word for word in words):
            return True
        failed = {outcome.value["_exception"]["task"] for outcome in record.outcomes if outcome.kind == "error"}
        return self._observed.raised[record.input["n"]] > len(failed) + sum("default" in word for word in words)
