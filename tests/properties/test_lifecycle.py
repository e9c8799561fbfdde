"""The machine's lifecycle over all sequences of events: what must hold after each, whatever came before."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timbr_wamp.errors import MachineClosed, WrongState
from timbr_wamp.machine.running.lifecycle import (
    ACTIVE,
    Close,
    Drained,
    Effect,
    Fail,
    ForgetError,
    Halt,
    HoldSource,
    Kept,
    Life,
    LifeEvent,
    Pause,
    PermitSource,
    Replaced,
    Report,
    Resume,
    ReturnRetries,
    Start,
    StartThread,
    Stop,
    StopTimedOut,
    WakeWaiters,
    transition,
)

NAMES = (
    "start", "pause", "resume", "stop", "drain", "timed_out", "drained", "kept", "halt", "replaced",
    "fail", "close", "dies",
)  # fmt: skip


@dataclass
class World:
    """Performs the effects as a worker would: a source, a thread, messages in backoff, an error to raise."""

    life: Life = field(default_factory=Life)
    source_reads: bool = False
    thread_lives: bool = False
    retries: bool = False
    woken: int = 0
    reports: list[str] = field(default_factory=list)

    def event(self, name: str) -> LifeEvent | None:
        events: dict[str, LifeEvent] = {
            "start": Start(self.thread_lives), "resume": Resume(self.thread_lives), "pause": Pause(),
            "stop": Stop(False, self.thread_lives), "drain": Stop(True, self.thread_lives),
            "timed_out": StopTimedOut(), "drained": Drained(), "kept": Kept("oid", "f0: ValueError"),
            "halt": Halt("the source is exhausted"), "replaced": Replaced("by a new one"),
            "fail": Fail("MemoryError"), "close": Close(),
        }  # fmt: skip
        return events.get(name)

    def check_event(self, name: str) -> None:
        """Let an event happen, and check what must hold then; a refused one changes nothing."""
        if name == "dies":  # a fork's child, or a thread that was killed: nothing reports it
            self.thread_lives = False
            return
        before = self.life
        event = self.event(name)
        assert event is not None
        try:
            self.life, effects = transition(before, event)
        except (WrongState, MachineClosed):
            return
        self.check_transition(before, effects)
        for effect in effects:
            self.perform(effect)
        if self.life.active:
            self.retries = True
        if name == "fail" or (not self.life.active and self.life.state != "paused"):
            self.thread_lives = False  # the thread ends by itself
        self.check()

    def perform(self, effect: Effect) -> None:
        if isinstance(effect, PermitSource):
            self.source_reads = True
        elif isinstance(effect, HoldSource):
            self.source_reads = False
        elif isinstance(effect, StartThread):
            self.thread_lives = True
        elif isinstance(effect, ReturnRetries):
            self.retries = False
        elif isinstance(effect, WakeWaiters):
            self.woken += 1
        elif isinstance(effect, Report):
            self.reports.append(effect.kind)
        else:
            assert isinstance(effect, ForgetError)

    def check_transition(self, before: Life, effects: tuple[Effect, ...]) -> None:
        """Check what every change of the state must do, whichever event caused it."""
        kinds = {type(effect) for effect in effects}
        if self.life != before:
            assert WakeWaiters in kinds, "waiting callers would not see the change"
        if before.active and not self.life.active:
            assert ReturnRetries in kinds, "messages in backoff would be lost"
        if before.state == "running" and self.life.state != "running":
            assert HoldSource in kinds, "the source would continue to read"
        assert sum(isinstance(effect, Report) for effect in effects) <= 1

    def check(self) -> None:
        """Check what must hold in every state."""
        life = self.life
        assert life.active == (life.state in ACTIVE)
        assert not self.source_reads or (life.state == "running" and not life.closed)
        assert self.retries <= life.active
        assert not (life.state == "running" and not life.closed) or self.source_reads
        assert (life.reason is None) or life.state in ("paused", "stopped", "failed")


@pytest.mark.parametrize("first", NAMES)
def test_no_sequence_of_four_events_forgets_anything(first: str) -> None:
    for names in itertools.product(NAMES, repeat=3):
        world = World()
        for name in (first, *names):
            world.check_event(name)


@given(st.lists(st.sampled_from(NAMES), max_size=60))
def test_no_sequence_of_any_length_forgets_anything(names: list[str]) -> None:
    world = World()
    for name in names:
        world.check_event(name)


@pytest.mark.parametrize("way", [["pause"], ["kept"], ["halt"], ["replaced"], ["stop"], ["fail"], ["drain"], ["close"]])
def test_each_way_out_of_running_holds_the_source(way: list[str]) -> None:
    world = World()
    for name in ["start", *way]:
        world.check_event(name)
    assert not world.source_reads


@pytest.mark.parametrize("verb", ["start", "resume"])
def test_a_closed_machine_starts_no_more(verb: str) -> None:
    life, _ = transition(Life(), Close())
    with pytest.raises(MachineClosed):
        transition(life, Start(False) if verb == "start" else Resume(False))


def test_a_running_machine_whose_thread_ended_is_started_again() -> None:
    life, _ = transition(Life(), Start(False))
    _, effects = transition(life, Start(False))
    assert StartThread() in effects
    assert any(isinstance(effect, Report) and effect.kind == "started" for effect in effects)


def test_stopping_an_idle_machine_is_no_event() -> None:
    life, effects = transition(Life(), Stop(False, False))
    assert life.state == "stopped"
    assert not any(isinstance(effect, Report) for effect in effects)


def test_a_machine_that_stopped_itself_keeps_its_reason() -> None:
    life, _ = transition(Life("running"), Halt("f0: ValueError"))
    life, _ = transition(life, Stop(False, True))
    assert (life.state, life.reason) == ("stopped", "f0: ValueError")
