"""Fixtures of the unit tests: machines without a wire, gates, observers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from machine_kit import Gate, Machines, ManualClock, Recorder

from timbr_wamp.machine import Machine


@pytest.fixture
def machines() -> Iterator[Machines]:
    """Make machines; each is closed and its counts are checked afterwards."""
    made = Machines()
    yield made
    made.close()


@pytest.fixture
def gate(machines: Machines) -> Gate:
    """A slot function that blocks until the test opens it."""
    return machines.gate()


@pytest.fixture
def new_gate(machines: Machines) -> Callable[[], Gate]:
    """Make several of them."""
    return machines.gate


@pytest.fixture
def records() -> Recorder:
    """The sink and hook of `machine`."""
    return Recorder()


@pytest.fixture
def machine(machines: Machines, records: Recorder) -> Machine:
    """A machine of eight slots that tells `records` everything."""
    return machines(sinks=[records], hooks=[records])


@pytest.fixture
def clock() -> ManualClock:
    """A clock that only the test moves."""
    return ManualClock()
