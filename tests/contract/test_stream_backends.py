"""Every storage of streams keeps the public contract."""

from __future__ import annotations

import pytest

from timbr_wamp import plugins
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


@pytest.fixture
def backend(url):
    backend = plugins.load(plugins.STREAMS, url.partition(":")[0])(url)
    yield backend
    backend.close()


class TestRedis(DurableBackendContract):
    @pytest.fixture
    def url(self, redis, tmp_path):
        return f"redis://127.0.0.1:{redis.port}/?prefix={tmp_path.name[:90]}"


class TestMongodb(DurableBackendContract):
    @pytest.fixture
    def url(self, mongodb, tmp_path):
        return f"mongodb://127.0.0.1:{mongodb.port}/{tmp_path.name[:50]}"
