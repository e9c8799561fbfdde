"""What ``timbr-wamp bridge`` makes of its idle limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from timbr_wamp.cli import main
from timbr_wamp.components import bridge as bridge_module
from timbr_wamp.components.bridge import BridgeOptions


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[BridgeOptions]:
    """The options of the bridges that would have run."""
    seen: list[BridgeOptions] = []

    async def run_bridge(given: BridgeOptions, report: object) -> int:
        seen.append(given)
        return 0

    monkeypatch.setattr(bridge_module, "run_bridge", run_bridge)
    return seen


def run(tmp_path: Path, *words: str, **environ: str) -> int:
    folders = {f"TIMBR_WAMP_{kind}_DIR": str(tmp_path / kind) for kind in ("RUNTIME", "DATA", "CONFIG")}
    router = {"TIMBR_WAMP_URL": "ws://router.example/ws", "TIMBR_WAMP_TOKEN": "lab.secret"}
    (tmp_path / "kernel.json").touch()
    done = CliRunner().invoke(main, ["bridge", str(tmp_path / "kernel.json"), *words], env=folders | router | environ)
    return done.exit_code


@pytest.mark.parametrize(
    ("words", "environ", "limit_s"),
    [
        ((), {}, None),
        ((), {"SHUTDOWN_INTERVAL": "0"}, None),
        (("--shutdown-interval", "0"), {"SHUTDOWN_INTERVAL": "60"}, None),
        (("--shutdown-interval", "90"), {}, 90.0),
    ],
)
def test_zero_means_never(tmp_path, options, words, environ, limit_s):
    assert run(tmp_path, *words, **environ) == 0
    assert [one.shutdown_interval_s for one in options] == [limit_s]


def test_a_negative_limit_is_wrong_usage(tmp_path, options):
    assert run(tmp_path, "--shutdown-interval", "-1") == 2
    assert run(tmp_path, SHUTDOWN_INTERVAL="-1") == 1
    assert options == []


def test_a_connection_file_that_is_not_there_is_said_first_and_alone(tmp_path: Path) -> None:
    """Before anything about the router, of which there is none here."""
    folders = {f"TIMBR_WAMP_{kind}_DIR": str(tmp_path / kind) for kind in ("RUNTIME", "DATA", "CONFIG")}
    done = CliRunner().invoke(main, ["bridge", "no-such-file.json"], env=folders)
    assert done.exit_code == 1
    (line,) = done.stderr.splitlines()
    assert "no-such-file.json" in line
    assert "no such file" in line
