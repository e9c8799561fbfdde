"""Fixtures of the contract tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from feeder_kit import Rig, rigs
from server_kit import Server, find_mongodb, find_redis, mongodb_server, redis_server


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    """Make sources with their queues; each is closed and its counts are checked afterwards."""
    with rigs() as make:
        yield make


@pytest.fixture(scope="session")
def redis(test_folder: Path, require_service: Callable[..., None]) -> Iterator[Server]:
    """The session's Redis; its streams are told apart by prefix."""
    require_service("Redis", find_redis)
    with redis_server(Path(tempfile.mkdtemp(dir=test_folder))) as server:
        yield server


@pytest.fixture(scope="session")
def mongodb(test_folder: Path, require_service: Callable[..., None]) -> Iterator[Server]:
    """The session's server with MongoDB's protocol; its streams are told apart by database."""
    require_service("MongoDB", find_mongodb)
    with mongodb_server(Path(tempfile.mkdtemp(dir=test_folder))) as server:
        yield server
