"""Every storage of streams keeps the public contract."""

from __future__ import annotations

import pytest

from timbr_wamp.streams.backends.sqlite import SqliteStreams
from timbr_wamp.streams.testing import DurableBackendContract, StreamBackendContract


class TestMemory(StreamBackendContract):
    @pytest.fixture
    def backend(self):
        backend = SqliteStreams(None)
        yield backend
        backend.close()


class TestSqlite(DurableBackendContract):
    @pytest.fixture
    def url(self, tmp_path):
        return f"sqlite://{tmp_path}/streams.db"

    @pytest.fixture
    def backend(self, tmp_path):
        backend = SqliteStreams(tmp_path / "streams.db")
        yield backend
        backend.close()
