"""Settings come from arguments, the environment, ``timbr.toml``, the user's file, in that order."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from timbr_wamp.cli.app import main
from timbr_wamp.errors import InvalidSetting
from timbr_wamp.settings import ConsentWanted, Settings, consent, load_settings, unanswered


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


# --- tokens and consent --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "environ", "explicit", "token"),
    [
        ('url = "wss://a/ws"\ntoken = "u.1"', {}, {}, "u.1"),
        ('url = "wss://a/ws"\ntoken = "u.1"', {"URL": "wss://b/ws"}, {}, None),
        ('url = "wss://a/ws"\ntoken = "u.1"', {"URL": "wss://A:443/ws"}, {}, "u.1"),
        ('url = "wss://a/ws"', {"TOKEN": "e.1"}, {}, "e.1"),
        ("", {"TOKEN": "e.1"}, {}, "e.1"),
        ("", {"TOKEN": "e.1"}, {"url": "wss://c/ws"}, None),
        ("", {"TOKEN": "e.1", "URL": "wss://c/ws"}, {"url": "wss://c/ws"}, "e.1"),
        ('token = "u.1"', {"URL": "wss://b/ws"}, {}, None),
        ("", {"TOKEN": "e.1"}, {"url": "wss://c/ws", "token": "x.1"}, "x.1"),
    ],
)
def test_a_token_belongs_to_the_url_in_force_where_it_was_set(tmp_path, user, environ, explicit, token):
    write(tmp_path / "config" / "config.toml", f"[settings]\n{user}")
    settings = load(tmp_path, {f"TIMBR_WAMP_{name}": value for name, value in environ.items()}, **explicit)
    assert settings.token == token


HOSTILE = """[settings]
url = "ws://evil.example/ws"
crossbar = "bin/x.sh"
interface = "0.0.0.0"
data_dir = "d"
log_level = "info"
"""


def environ_of(tmp_path: Path, **more: str) -> dict[str, str]:
    return {"TIMBR_WAMP_CONFIG_DIR": str(tmp_path / "config"), **more}


def test_a_projects_file_decides_where_tokens_go_and_what_runs_only_with_consent(tmp_path):
    write(tmp_path / "timbr.toml", HOSTILE)
    with pytest.warns(ConsentWanted, match=r"sets url = 'ws://evil.example/ws', interface.*timbr-wamp trust"):
        settings = load(tmp_path, {"TIMBR_WAMP_TOKEN": "e.1"})
    assert (settings.url, settings.crossbar, settings.interface) == (None, None, "127.0.0.1")
    assert settings.token == "e.1"  # for the local router
    assert settings.log_level == "info"  # harmless
    question = unanswered(tmp_path, environ_of(tmp_path))
    assert question is not None
    consent(question, environ_of(tmp_path))
    assert unanswered(tmp_path, environ_of(tmp_path)) is None
    assert load(tmp_path).url == "ws://evil.example/ws"  # without a warning, which would be an error
    assert (tmp_path / "config" / "consents.json").stat().st_mode & 0o777 == 0o600


def test_another_content_or_place_is_asked_again_but_not_another_slot(tmp_path):
    write(tmp_path / "timbr.toml", HOSTILE)
    question = unanswered(tmp_path, environ_of(tmp_path))
    assert question is not None
    consent(question, environ_of(tmp_path))
    write(tmp_path / "timbr.toml", HOSTILE + '[[slots]]\nsource = "lambda x: x"\n')
    assert unanswered(tmp_path, environ_of(tmp_path)) is None
    write(tmp_path / "other" / "timbr.toml", HOSTILE)
    assert unanswered(tmp_path / "other", environ_of(tmp_path)) is not None
    write(tmp_path / "timbr.toml", HOSTILE.replace("evil", "worse"))
    with pytest.warns(ConsentWanted, match="worse"):
        assert load(tmp_path).url is None


def test_a_token_is_not_shown_in_the_question(tmp_path):
    write(tmp_path / "timbr.toml", '[settings]\ntoken = "ada.hunter2"')
    question = unanswered(tmp_path, environ_of(tmp_path))
    assert "hunter2" not in str(question) + repr(question)


def test_consents_that_others_could_have_written_do_not_count(tmp_path):
    write(tmp_path / "timbr.toml", HOSTILE)
    question = unanswered(tmp_path, environ_of(tmp_path))
    assert question is not None
    consent(question, environ_of(tmp_path))
    (tmp_path / "config" / "consents.json").chmod(0o666)
    assert unanswered(tmp_path, environ_of(tmp_path)) is not None


def test_files_that_others_may_write_are_ignored(tmp_path, monkeypatch):
    write(tmp_path / "timbr.toml", "[settings]\nport = 9999")
    write(tmp_path / "config" / "config.toml", '[settings]\nrealm = "mine"')
    assert (load(tmp_path).port, load(tmp_path).realm) == (9999, "mine")
    (tmp_path / "timbr.toml").chmod(0o666)
    assert load(tmp_path).port == Settings().port
    (tmp_path / "timbr.toml").chmod(0o644)
    owner = (tmp_path / "timbr.toml").stat().st_uid
    monkeypatch.setattr("timbr_wamp.consent.allowed_owners", lambda: (owner + 1,))
    settings = load(tmp_path)
    assert (settings.port, settings.realm) == (Settings().port, Settings().realm)


def test_the_command_says_what_is_not_used_and_consents_when_it_is_told(tmp_path, monkeypatch):
    write(tmp_path / "timbr.toml", HOSTILE)
    monkeypatch.chdir(tmp_path)
    for name, value in environ_of(tmp_path, TIMBR_WAMP_RUNTIME_DIR=str(tmp_path / "run")).items():
        monkeypatch.setenv(name, value)

    def command(*arguments: str) -> str:
        return CliRunner().invoke(main, arguments).stderr

    before = command("list")
    assert before.count("not used without your consent") == 1
    assert "no router" in before  # it did not go there
    consenting = command("trust")
    assert "used from now on" in consenting
    assert "not used" not in consenting
    after = command("list")
    assert "consent" not in after
    assert "evil.example" in after  # there is no token for it
    assert "has it" in command("trust")
