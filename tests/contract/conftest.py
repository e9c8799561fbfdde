"""Fixtures of the contract tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from feeder_kit import Rig, rigs


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Make sources with their queues; each is closed and its counts are checked afterwards."""
    with rigs() as make:
        yield make
