"""Settings come from arguments, the environment, ``timbr.toml``, the user's file, in that order."""

from __future__ import annotations

from pathlib import Path

import pytest

from timbr_wamp.errors import InvalidSetting
from timbr_wamp.settings import Settings, load_settings


def load(tmp_path: Path, environ: dict[str, str] | None = None, **explicit: object) -> Settings:
    environ = {"TIMBR_WAMP_CONFIG_DIR": str(tmp_path / "config"), **(environ or {})}
    return load_settings(environ=environ, folder=tmp_path, **explicit)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_nearer_sources_win_over_farther_ones(tmp_path):
    write(
        tmp_path / "config" / "config.toml", '[settings]\nport = 1\nrealm = "user"\nhost = "user"\nlog_level = "info"'
    )
    write(tmp_path / "timbr.toml", '[settings]\nport = 2\nrealm = "project"\nhost = "project"')
    settings = load(tmp_path, {"TIMBR_WAMP_PORT": "3", "TIMBR_WAMP_REALM": "environment"}, port=4)
    assert (settings.port, settings.realm, settings.host, settings.log_level) == (4, "environment", "project", "info")


def test_an_argument_that_is_none_or_an_empty_variable_says_nothing(tmp_path):
    assert load(tmp_path, {"TIMBR_WAMP_REALM": ""}, port=None).port == Settings().port


def test_names_of_the_ancestors_work_behind_ours(tmp_path):
    environ = {"JUPYTER_WAMP_ROUTER": "ws://old", "JUNO_AUTH_TOKEN": "a.b", "SHUTDOWN_INTERVAL": "60"}
    settings = load(tmp_path, environ)
    assert (settings.url, settings.token, settings.shutdown_interval_s) == ("ws://old", "a.b", 60.0)
    assert load(tmp_path, {**environ, "TIMBR_WAMP_URL": "ws://new"}).url == "ws://new"


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        ({"TIMBR_WAMP_PORT": "eighty"}, "TIMBR_WAMP_PORT"),
        ({"TIMBR_WAMP_SHUTDOWN_INTERVAL_S": "soon"}, "TIMBR_WAMP_SHUTDOWN_INTERVAL_S"),
        ({"SHUTDOWN_INTERVAL": "-1"}, "0 means never"),
        ({"SHUTDOWN_INTERVAL": "nan"}, "0 means never"),
        ({"TIMBR_WAMP_HOST": "Not A Name"}, "TIMBR_WAMP_HOST"),
        ({"TIMBR_WAMP_PORT": "70000"}, "port"),
        ({"TIMBR_WAMP_TLS_KEY": "/k"}, "tls_certificate"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_origin(tmp_path, environ, word):
    with pytest.raises(InvalidSetting, match=word):
        load(tmp_path, environ)


def test_an_unknown_name_in_a_file_is_refused_with_the_known_ones(tmp_path):
    write(tmp_path / "timbr.toml", "[settings]\nprot = 1")
    with pytest.raises(InvalidSetting, match=r"prot.*port"):
        load(tmp_path)


def test_a_file_that_is_no_toml_is_refused_by_its_path(tmp_path):
    write(tmp_path / "timbr.toml", "settings = [")
    with pytest.raises(InvalidSetting, match=r"timbr\.toml"):
        load(tmp_path)


def test_an_unknown_argument_is_refused(tmp_path):
    with pytest.raises(InvalidSetting, match="colour"):
        load(tmp_path, colour="red")


def test_a_token_is_not_shown(tmp_path):
    assert "hunter2" not in repr(load(tmp_path, token="me.hunter2"))


def test_paths_may_begin_with_the_home_folder(tmp_path):
    assert load(tmp_path, data_dir="~/x").data_dir == Path.home() / "x"
