"""The router's life: found, started, refused, killed, started again, stopped. Real Crossbar.io."""

from __future__ import annotations

import datetime
import hashlib
import os
import shutil
import signal
import socket
import ssl
import stat
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest

import timbr_wamp
from timbr_wamp import errors as e
from timbr_wamp.cli.local_services import LocalServices
from timbr_wamp.router import (
    Router,
    TokenStore,
    environment,
    find_crossbar,
    install_crossbar,
    node,
    share_environment,
    stop_node,
)
from timbr_wamp.router.probe import node_answers
from timbr_wamp.runtime import NodeFile, node_file, read_file
from timbr_wamp.settings import Settings, load_settings

pytestmark = pytest.mark.integration

OLD_CROSSBAR = '#!/bin/sh\necho " Crossbar.io                  : {version}"\n[ "$1" = version ] && exit 0\n{then}\n'


def executable(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# --- starting --------------------------------------------------------------------------------


def test_it_answers_when_start_returns(router: Router, settings: Settings) -> None:
    with urllib.request.urlopen(router.page_url, timeout=10.0) as answer:
        assert answer.status == 200
        assert b"<html" in answer.read().lower()
    path = Path(router.unix_url.removeprefix("rs+unix://"))
    assert node_answers(path, settings.realm, router.host_token, timeout_s=5.0) is False  # a host may not list
    assert node_answers(path, settings.realm, router.admin_token, timeout_s=5.0)
    assert router.alive


def test_other_processes_find_it_by_its_runtime_file(router: Router, settings: Settings) -> None:
    found = read_file(node_file(settings.runtime_dir), NodeFile)
    assert found is not None
    assert found.alive()
    assert (found.url, found.unix_url, found.page_url) == (router.url, router.unix_url, router.page_url)
    assert (found.token, found.host_token) == (router.admin_token, router.host_token)
    assert found.host_token.startswith("lab.")


def test_its_folders_are_closed_to_others(router: Router, settings: Settings) -> None:
    assert mode(router.node_dir) == 0o700
    assert mode(Path(router.unix_url.removeprefix("rs+unix://")).parent) == 0o700
    for name in ("config.json", "tokens.json", "local-tokens.json", "router.log", "key.priv"):
        assert mode(router.node_dir / name) == 0o600, name
    assert mode(node_file(settings.runtime_dir)) == 0o600


def test_it_runs_in_a_session_of_its_own(router: Router) -> None:
    assert os.getsid(router.pid) == router.pid


def test_a_second_start_is_refused(router: Router, settings: Settings, free_port: int) -> None:
    with pytest.raises(e.AlreadyUp, match=f"process {router.pid}"):
        Router.start(settings, port=free_port)


def test_a_second_start_is_refused_by_the_folder_too(
    router: Router, settings: Settings, own_settings: Settings, free_port: int
) -> None:
    with pytest.raises(e.AlreadyUp, match=f"process {router.pid}"):
        Router.start(replace(settings, runtime_dir=own_settings.runtime_dir), port=free_port)
    assert router.alive


@pytest.fixture
def busy_port() -> Iterator[int]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        yield sock.getsockname()[1]


def test_a_busy_port_is_reported_at_once(own_settings: Settings, busy_port: int) -> None:
    with pytest.raises(e.PortBusy, match=f"port {busy_port} is in use"):
        Router.start(own_settings, port=busy_port)


def test_a_lack_of_free_ports_is_reported(
    own_settings: Settings, busy_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "PORT_RANGE", 0)
    with pytest.raises(e.NoFreePort, match=f"from {busy_port} to {busy_port}"):
        Router.start(own_settings, port=busy_port, next_free_port=True)


def test_a_folder_that_others_can_open_is_refused(own_settings: Settings, free_port: int) -> None:
    folder = own_settings.data_dir / "node"
    folder.mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(e.UnsafeFolder, match="0755"):
        Router.start(own_settings, port=free_port)


def test_a_router_that_ends_is_noticed_at_once_with_its_log(own_settings: Settings, free_port: int) -> None:
    script = OLD_CROSSBAR.format(version="26.10.1", then="echo no luck today >&2; exit 3")
    broken = executable(own_settings.data_dir / "crossbar", script)
    began = time.monotonic()
    with pytest.raises(e.RouterStartFailed, match=r"status 3\n(.*\n)*no luck today"):
        Router.start(replace(own_settings, crossbar=broken), port=free_port)
    assert time.monotonic() - began < 10.0


def test_a_router_that_never_answers_is_ended(
    own_settings: Settings, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent = executable(
        own_settings.data_dir / "crossbar", OLD_CROSSBAR.format(version="26.10.1", then="exec sleep 600")
    )
    monkeypatch.setattr(node, "START_LIMIT_S", 0.5)
    with pytest.raises(e.RouterStartFailed, match=r"0\.5 s"):
        Router.start(replace(own_settings, crossbar=silent), port=free_port)  # the leak check sees that it is gone


def test_killed_and_started_again(own_settings: Settings, busy_port: int) -> None:
    reported: list[str] = []
    first = Router.start(own_settings, port=busy_port, next_free_port=True, report=reported.append)
    try:
        assert f"port {busy_port} is in use" in reported[0]
        port = int(first.page_url.split(":")[2].strip("/"))
        assert port > busy_port
        made = TokenStore(first.node_dir).create("ada", "viewer")
        os.kill(first.pid, signal.SIGKILL)  # leaves pid file, socket, runtime file, and for 2 s its worker
        psutil.Process(first.pid).wait(5.0)
        assert (first.node_dir / "node.pid").exists()
        with Router.start(own_settings, port=port) as second:
            assert second.pid != first.pid
            assert (second.admin_token, second.host_token) == (first.admin_token, first.host_token)
            assert TokenStore(second.node_dir).valid(made, "viewer")
            assert (second.node_dir / "router.log.1").exists()
        second.stop()  # again: nothing happens
        assert not second.alive
        assert not node_file(own_settings.runtime_dir).exists()
        assert not Path(second.unix_url.removeprefix("rs+unix://")).exists()
    finally:
        first.stop()


def test_another_process_may_stop_it_and_tls_needs_two_settings(own_settings: Settings, free_port: int) -> None:
    certificate, key = self_signed(own_settings.data_dir)
    secured = replace(own_settings, tls_certificate=certificate, tls_key=key)
    with Router.start(secured, port=free_port) as router:
        assert router.url == f"wss://127.0.0.1:{free_port}/ws"
        context = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(router.page_url, timeout=10.0, context=context) as answer:
            assert answer.status == 200
        assert stop_node(own_settings)
        assert not router.alive
        assert not stop_node(own_settings)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 that is valid for an hour."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "tls.crt", folder / "tls.key"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths


# --- finding and installing Crossbar.io ------------------------------------------------------


@pytest.fixture
def nothing_installed(own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Settings under which no crossbar is found, on a PATH with nothing of that name."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return replace(own_settings, crossbar=None)


def test_without_crossbar_the_error_names_the_command(nothing_installed: Settings) -> None:
    with pytest.raises(e.RouterNotInstalled, match="timbr-wamp router install"):
        find_crossbar(nothing_installed)


def test_a_crossbar_on_the_path_is_found_last(nothing_installed: Settings, tmp_path: Path) -> None:
    crossbar = executable(tmp_path / "bin" / "crossbar", OLD_CROSSBAR.format(version="26.10.1", then=""))
    assert find_crossbar(nothing_installed) == crossbar
    named = executable(tmp_path / "named", OLD_CROSSBAR.format(version="26.10.1", then=""))
    assert find_crossbar(replace(nothing_installed, crossbar=named)) == named


def test_an_old_crossbar_is_refused_with_its_version(nothing_installed: Settings, tmp_path: Path) -> None:
    executable(tmp_path / "bin" / "crossbar", OLD_CROSSBAR.format(version="22.3.1", then=""))
    with pytest.raises(e.RouterNotInstalled, match=r"22\.3\.1, older than"):
        find_crossbar(nothing_installed)


def test_a_crossbar_that_does_not_run_is_refused(nothing_installed: Settings, tmp_path: Path) -> None:
    broken = executable(tmp_path / "crossbar", "#!/bin/sh\nexit 1\n")
    with pytest.raises(e.RouterNotInstalled, match=str(broken)):
        find_crossbar(replace(nothing_installed, crossbar=broken))
    with pytest.raises(e.RouterNotInstalled, match=str(tmp_path / "missing")):
        find_crossbar(replace(nothing_installed, crossbar=tmp_path / "missing"))


def test_a_half_made_environment_is_not_used(nothing_installed: Settings) -> None:
    folder = environment.environment_folder(nothing_installed)
    executable(folder / "bin" / "crossbar", OLD_CROSSBAR.format(version="26.10.1", then=""))
    with pytest.raises(e.RouterNotInstalled):
        find_crossbar(nothing_installed)


def test_a_half_made_environment_is_made_anew_and_a_failure_shows_why(
    own_settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in environment.LOCKS:
        (tmp_path / name).write_text("")
    (tmp_path / "requirements.txt").write_text(f"./no-such-file-1.0-py3-none-any.whl --hash=sha256:{'0' * 64}\n")
    monkeypatch.setattr(environment, "shipped", lambda name: tmp_path / name)
    folder = environment.environment_folder(own_settings)
    (folder / "bin").mkdir(parents=True)
    (folder / environment.NOTE).write_text("not complete")
    (folder / "leftover").write_text("")
    reported: list[str] = []
    with pytest.raises(e.RouterInstallFailed, match=r"installing the packages\n(.*\n)*.*no-such-file"):
        install_crossbar(own_settings, reported.append)
    assert not (folder / "leftover").exists()
    assert str(folder) in reported[0]
    monkeypatch.setenv("PATH", str(tmp_path))  # a crossbar may be on the caller's
    with pytest.raises(e.RouterNotInstalled):
        find_crossbar(replace(own_settings, crossbar=None))


def test_a_folder_of_somebody_else_is_not_touched(own_settings: Settings, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "work").write_text("years of it")
    with pytest.raises(e.RouterInstallFailed, match=str(tmp_path / "theirs")):
        install_crossbar(replace(own_settings, router_env=tmp_path / "theirs"), lambda text: None)
    assert (tmp_path / "theirs" / "work").read_text() == "years of it"


def test_a_clone_knows_its_own_environment_whoever_asks() -> None:
    root = Path(timbr_wamp.__file__).parents[1]
    assert environment.environment_folder(load_settings(environ={})) == root / ".router-env"


def test_a_wheel_has_its_environment_in_the_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(environment, "clone_folder", lambda: None)
    assert environment.environment_folder(load_settings(environ={}, data_dir=tmp_path)).parent == tmp_path


def test_the_setting_comes_before_the_clone(tmp_path: Path) -> None:
    settings = load_settings(environ={"TIMBR_WAMP_ROUTER_ENV": str(tmp_path / "mine")})
    assert environment.environment_folder(settings) == tmp_path / "mine"


def complete_environment(folder: Path) -> Path:
    """Make a folder that looks like a router's environment that is complete; return its crossbar."""
    python = executable(folder / "bin" / "python", "#!/bin/sh\n")
    requirements = environment.shipped("requirements.txt").read_bytes()
    (folder / environment.NOTE).write_text(hashlib.sha256(requirements).hexdigest()[:12])
    return executable(folder / "bin" / "crossbar", f"#!{python}\n")


@pytest.fixture
def clone(nothing_installed: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A clone in which the package runs; what is not set in its settings is that of a user."""
    monkeypatch.setattr(environment, "clone_folder", lambda: tmp_path / "clone")
    return tmp_path / "clone"


def test_a_clones_environment_is_found_by_an_installed_package_and_by_other_clones(
    nothing_installed: Settings, clone: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = replace(nothing_installed, router_env=None)
    crossbar = complete_environment(clone / ".router-env")
    assert install_crossbar(settings, pytest.fail) == crossbar  # nothing is installed, and nothing said
    for other in (None, tmp_path / "other"):
        monkeypatch.setattr(environment, "clone_folder", lambda other=other: other)
        assert find_crossbar(settings).samefile(crossbar)
        assert install_crossbar(settings, pytest.fail).samefile(crossbar)
    shutil.rmtree(clone)
    with pytest.raises(e.RouterNotInstalled):
        find_crossbar(settings)


def test_an_installed_packages_environment_is_found_by_a_clone(
    nothing_installed: Settings, clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(nothing_installed, router_env=None)
    monkeypatch.setattr(environment, "clone_folder", lambda: None)
    crossbar = complete_environment(environment.environment_folder(settings))
    monkeypatch.setattr(environment, "clone_folder", lambda: clone)
    assert find_crossbar(settings) == crossbar
    share_environment(settings)
    assert crossbar.is_file()
    assert not crossbar.parents[1].is_symlink()


def test_an_environment_that_was_moved_is_not_used(nothing_installed: Settings, clone: Path, tmp_path: Path) -> None:
    settings = replace(nothing_installed, router_env=None)
    complete_environment(tmp_path / "before" / ".router-env")
    (tmp_path / "before").rename(clone)
    with pytest.raises(e.RouterNotInstalled):
        find_crossbar(settings)


def test_a_port_in_use_is_refused_before_anything_is_installed(nothing_installed: Settings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = replace(nothing_installed, port=taken.getsockname()[1])
        reported: list[str] = []
        with pytest.raises(e.PortBusy):
            LocalServices(settings, reported.append).start_router(next_free_port=False)
    assert reported == []
