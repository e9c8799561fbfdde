"""What a router is started with: the warning about TLS, who may open its websocket, its serializers and limits."""

from __future__ import annotations

import importlib
import json
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from timbr_wamp.contract import PAYLOAD_LIMIT_BYTES
from timbr_wamp.router.plan import NodePlan
from timbr_wamp.settings import load_settings


def planned(tmp_path: Path, **settings: Any) -> NodePlan:
    """A plan, written to its folder."""
    folders = {"runtime_dir": tmp_path / "run", "data_dir": tmp_path / "data"}
    loaded = load_settings(environ={}, folder=tmp_path, host="lab", **folders, **settings)
    (tmp_path / "node").mkdir(mode=0o700)
    plan = NodePlan.make(loaded, tmp_path / "node", 8080, None)
    plan.write()
    return plan


@pytest.mark.parametrize("interface", ["0.0.0.0", "192.168.7.7", "::", "router.example"])
def test_listening_for_others_without_tls_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, interface: str
) -> None:
    with caplog.at_level(logging.WARNING):
        planned(tmp_path, interface=interface)
    assert any(interface in record.getMessage() and "TLS" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("settings", [{}, {"interface": "localhost"}, {"interface": "0.0.0.0", "tls": True}])
def test_nothing_is_warned_of_here_or_with_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, settings: dict[str, Any]
) -> None:
    if settings.pop("tls", False):
        settings |= {"tls_certificate": tmp_path / "tls.pem", "tls_key": tmp_path / "tls.key"}
    with caplog.at_level(logging.WARNING):
        planned(tmp_path, **settings)
    assert not caplog.records


def test_only_the_page_itself_may_open_the_websocket(tmp_path: Path) -> None:
    assert planned(tmp_path).origins() == ["http://127.0.0.1:8080", "http://localhost:8080"]


def test_each_transport_asks_for_a_token_and_has_limits(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    worker = json.loads((plan.node_dir / "config.json").read_text())["workers"][0]
    web, unix = worker["transports"]
    for transport in (web["paths"]["ws"], unix):
        assert set(transport["auth"]) == {"ticket"}
        assert sorted(transport["serializers"]) == ["json", "msgpack"]
        assert PAYLOAD_LIMIT_BYTES < transport["options"]["max_message_size"] <= 4 * 1024 * 1024
    assert web["endpoint"]["interface"] == "127.0.0.1"
    assert not re.search(r"\banonymous\b", json.dumps(worker))


def test_a_class_takes_the_place_of_the_one_that_it_is_made_from_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "router-config")
    replace_class = importlib.import_module("timbr_replace").replace_class

    class Theirs:
        pass

    class Ours(Theirs):
        pass

    owner = SimpleNamespace(known=Theirs, other=int)
    replace_class(owner, "known", Ours)
    assert owner.known is Ours
    with pytest.raises(TypeError):
        replace_class(owner, "other", Ours)
    with pytest.raises(AttributeError):
        replace_class(owner, "gone", Ours)
