"""Tokens are shown once, kept as hashes, changed by any number of processes at once."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from click.testing import CliRunner

from timbr_wamp import runtime
from timbr_wamp.cli import main
from timbr_wamp.errors import InvalidArgument, InvalidName, InvalidSetting, TokenExists, UnknownToken
from timbr_wamp.router import TokenInfo, TokenStore


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    return TokenStore(tmp_path / "node", clock=lambda: 100.0)


def test_a_token_reads_name_and_a_secret_of_256_bits(store: TokenStore) -> None:
    name, _, secret = store.create("ada", "viewer").partition(".")
    assert name == "ada"
    assert len(secret) == 43  # 32 bytes, base64 without padding
    assert "." not in secret


def test_only_the_hash_is_kept_and_only_its_owner_can_read_it(store: TokenStore, tmp_path: Path) -> None:
    _, _, secret = store.create("ada", "viewer").partition(".")
    for path in (tmp_path / "node").iterdir():
        assert secret not in path.read_text()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "node").stat().st_mode) == 0o700


def test_tokens_are_listed_by_name_without_secrets(store: TokenStore) -> None:
    store.create("zoe", "admin")
    store.create("ada", "viewer")
    assert store.list() == [TokenInfo("ada", "viewer", 100.0), TokenInfo("zoe", "admin", 100.0)]


def test_a_name_is_given_once_and_free_again_after_revoking(store: TokenStore) -> None:
    first = store.create("ada", "viewer")
    with pytest.raises(TokenExists, match="ada"):
        store.create("ada", "admin")
    store.revoke("ada")
    second = store.create("ada", "viewer")
    assert store.valid(second, "viewer")
    assert not store.valid(first, "viewer")


def test_a_token_is_valid_for_its_role_alone(store: TokenStore) -> None:
    token = store.create("ada", "viewer")
    assert not store.valid(token, "admin")
    assert not store.valid(token + "x", "viewer")
    assert not store.valid("ada", "viewer")
    assert not store.valid("", "viewer")


def test_an_unknown_token_cannot_be_revoked(store: TokenStore) -> None:
    store.create("ada", "viewer")
    with pytest.raises(UnknownToken, match="known tokens: ada"):
        store.revoke("eve")


@pytest.mark.parametrize("name", ["", "Ada", "a.b", "a-b", "ä", "x" * 33, "a\n"])
def test_a_name_that_cannot_stand_in_a_uri_is_refused(store: TokenStore, name: str) -> None:
    with pytest.raises(InvalidName):
        store.create(name, "viewer")


def test_an_unknown_role_is_refused(store: TokenStore) -> None:
    with pytest.raises(InvalidArgument, match="viewer, operator, admin, host"):
        store.create("ada", "trusted")


def test_tokens_made_at_the_same_time_are_all_kept(store: TokenStore) -> None:
    names = [f"n{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(lambda name: store.create(name, "viewer"), names))
    assert {info.name for info in store.list()} == set(names)
    assert all(store.valid(token, "viewer") for token in tokens)


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "{}", "[]", "null", '{"tokens": []}', '{"tokens": {"ada": {}}}',
        '{"tokens": {"ada": {"role": "viewer"}}}',
        '{"tokens": {"ada": {"role": "king", "sha256": "x"}}}', "[" * 100_000,
    ],
    ids=lambda content: content[:60],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(store: TokenStore, tmp_path: Path, content: str) -> None:
    token = store.create("ada", "viewer")
    path = tmp_path / "node" / "tokens.json"
    path.write_text(content)
    for attempt in (store.list, lambda: store.valid(token, "viewer"), lambda: store.create("bob", "viewer")):
        with pytest.raises(InvalidSetting, match="repair or remove it"):
            attempt()
    assert path.read_text() == content


# --- the router's word ---------------------------------------------------------------------------


def test_the_revoke_command_says_when_the_router_does_not_confirm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIMBR_WAMP_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("timbr_wamp.cli.tokens.APPLIED_LIMIT_S", 0.05)
    own, gone = (os.getpid(), runtime.own_process_started()), (2**22 - 7, 1.0)
    for (pid, started), status in ((own, 1), (gone, 0)):
        node = runtime.NodeFile(
            pid=pid, process_started=started, url="ws://127.0.0.1:1/ws", unix_url="rs+unix:///run/r.sock",
            page_url="http://127.0.0.1:1/", realm="timbr", node_dir=str(tmp_path / "node"), token="a.b",
            host_token="c.d",
        )  # fmt: skip
        runtime.write_file(runtime.node_file(tmp_path / "run"), node)
        monkeypatch.setenv("TIMBR_WAMP_DATA_DIR", str(tmp_path / "data"))
        for folder in (tmp_path / "node", tmp_path / "data" / "node"):
            with suppress(TokenExists):
                TokenStore(folder).create("ada", "viewer")
        done = CliRunner().invoke(main, ["token", "revoke", "ada"])
        assert done.exit_code == status, done.output
        assert ("did not confirm" in done.stderr) is bool(status)
