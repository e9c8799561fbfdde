"""What is wrong with a router's address is said at once, and before anything about the token."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

import timbr_wamp
from timbr_wamp.cli import main
from timbr_wamp.client.client import find_router
from timbr_wamp.errors import InvalidArgument, InvalidSetting, NotConnected, TimbrError
from timbr_wamp.magic.shell_state import ShellState
from timbr_wamp.names import router_url
from timbr_wamp.settings import Settings, load_settings

#: At once, on a busy computer.
AT_ONCE_S = 4.0
TOKENS = pytest.mark.parametrize("token", [None, "ada.secret"], ids=["no token", "token"])


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(environ={}, runtime_dir=tmp_path / "run", data_dir=tmp_path / "data", host="lab")


@pytest.fixture
def web_server(request: pytest.FixtureRequest) -> Iterator[str]:
    """``HOST:PORT`` of a web server that answers each GET with the status that the test asks for."""

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version = request.param[0]

        def do_GET(self) -> None:
            self.send_response(request.param[1])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        serving.join()


@pytest.fixture
def other_service() -> Iterator[str]:
    """``HOST:PORT`` of a service that speaks a protocol of its own, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1)
                    connection.sendall(b"220 mail.example.org ESMTP\r\n\r\n")

        answering = threading.Thread(target=answer)
        answering.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        answering.join()


def refusal(url: str, token: str | None, settings: Settings) -> TimbrError:
    """Return the error of connecting, which must come at once."""
    started = time.monotonic()
    with pytest.raises(TimbrError) as caught:
        timbr_wamp.connect(url, token, settings=settings)
    assert time.monotonic() - started < AT_ONCE_S
    return caught.value


# --- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("ws://127.0.0.1:8080/ws", "ws://127.0.0.1:8080/ws"),
        ("ws://127.0.0.1:8080", "ws://127.0.0.1:8080/ws"),
        ("127.0.0.1:8123", "ws://127.0.0.1:8123/ws"),
        ("localhost", "ws://localhost:8080/ws"),
        ("[::1]:8080/", "ws://[::1]:8080/ws"),
        ("  WSS://Example.org/timbr/ws\n", "wss://Example.org/timbr/ws"),
        ("http://127.0.0.1:8080/#token=admin.secret", "ws://127.0.0.1:8080/ws"),
        ("https://example.org/timbr/", "wss://example.org/timbr/ws"),
        ("RS+UNIX:///run/router.sock", "rs+unix:///run/router.sock"),
    ],
)
def test_what_is_missing_in_an_address_is_added(given: str, url: str) -> None:
    assert router_url(given) == url
    assert router_url(url) == url


@pytest.mark.parametrize(
    "given",
    ["foo", "", "8080", ":8080", "ws://", "ws:///ws", "ws:/127.0.0.1/ws", "ftp://example.org/ws", "ws://lab:ws/ws",
     "ws://lab:99999/ws", "ws://lab:0/ws", "127.0.0.1:8080:9", "ws://two words/ws", "ws://lab\n:8080/ws", "foo:9000"],
)  # fmt: skip
def test_what_is_no_address_is_refused_with_the_right_form(given: str, settings: Settings) -> None:
    assert "write ws://" in str(refusal(given or " ", None, settings))
    with pytest.raises(InvalidArgument):
        router_url(given)


def test_a_socket_needs_an_absolute_path(settings: Settings) -> None:
    assert "rs+unix:///PATH" in str(refusal("rs+unix://router.sock", None, settings))


def test_a_token_in_an_address_is_not_shown(settings: Settings) -> None:
    for url in ("ws://127.0.0.1:8080/ws#token=admin.secret", "foo#token=admin.secret", "ftp://h/#token=admin.secret"):
        assert "secret" not in str(refusal(url, None, settings))


def test_a_configured_address_is_completed_and_refused_with_where_it_came_from() -> None:
    configured = load_settings(environ={"TIMBR_WAMP_URL": "localhost:8080", "TIMBR_WAMP_TOKEN": "ada.secret"})
    target = find_router("ws://localhost:8080/ws", None, None, configured)
    assert (target.url, target.token) == ("ws://localhost:8080/ws", "ada.secret")
    assert find_router(None, None, None, configured) == target
    with pytest.raises(InvalidSetting, match=r"TIMBR_WAMP_URL.*write ws://"):
        load_settings(environ={"TIMBR_WAMP_URL": "foo"})


# --- what is there -----------------------------------------------------------------------------


@TOKENS
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_where_nobody_listens_is_named(host: str, token: str | None, settings: Settings, free_port: int) -> None:
    error = refusal(f"ws://{host}:{free_port}/ws", token, settings)
    assert isinstance(error, NotConnected)
    assert f"nothing listens on {host}:{free_port}" in str(error)


@TOKENS
def test_a_socket_that_is_not_there_is_named(token: str | None, settings: Settings, tmp_path: Path) -> None:
    assert f"nothing listens on {tmp_path}/no.sock" in str(refusal(f"rs+unix://{tmp_path}/no.sock", token, settings))


@TOKENS
def test_a_computer_that_nobody_knows_is_named(token: str | None, settings: Settings) -> None:
    assert "no_such_computer.invalid" in str(refusal("wss://no_such_computer.invalid/ws", token, settings))


@TOKENS
@pytest.mark.parametrize("web_server", [("HTTP/1.0", 200), ("HTTP/1.1", 200)], indirect=True)
def test_the_pages_address_leads_to_the_right_one(token: str | None, web_server: str, settings: Settings) -> None:
    said = str(refusal(f"ws://{web_server}/", token, settings))
    assert "this is the page's address" in said
    assert said.endswith(f"the WAMP address is ws://{web_server}/ws")


@TOKENS
@pytest.mark.parametrize("web_server", [("HTTP/1.0", 404), ("HTTP/1.1", 404), ("HTTP/1.1", 502)], indirect=True)
def test_an_address_without_a_router_is_named_with_the_status(
    token: str | None, web_server: str, settings: Settings
) -> None:
    said = str(refusal(f"ws://{web_server}/else", token, settings))
    assert f"ws://{web_server}/else" in said
    assert "HTTP status" in said
    assert f"ws://{web_server}/ws" in said


@TOKENS
def test_a_service_that_is_no_router_is_named(token: str | None, other_service: str, settings: Settings) -> None:
    assert other_service in str(refusal(f"ws://{other_service}/ws", token, settings))
    assert "does not speak TLS" in str(refusal(f"wss://{other_service}/ws", token, settings))


def test_a_router_that_is_not_there_is_waited_for_when_asked(settings: Settings, free_port: int) -> None:
    started = time.monotonic()
    with pytest.raises(NotConnected, match="nothing listens"):
        timbr_wamp.connect(f"ws://127.0.0.1:{free_port}/ws", "a.b", wait=True, timeout_s=0.5, settings=settings)
    assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize(
    "words", [["list"], ["status"], ["put", "lab", "1"], ["export"], ["diff"], ["host"], ["bridge", "kernel.json"]]
)
def test_commands_say_what_is_wrong_with_the_address(
    words: list[str], free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "timbr.toml").write_text("")
    (tmp_path / "kernel.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, [*words, "--url", f"ws://127.0.0.1:{free_port}/ws"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "nothing listens on" in done.stderr
    done = CliRunner().invoke(main, [*words, "--url", "foo"])
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1)
    assert "write ws://HOST:PORT/ws" in done.stderr


def test_the_magic_says_what_is_wrong_with_the_address(free_port: int) -> None:
    with pytest.raises(InvalidArgument, match="write ws://HOST:PORT/ws"):
        ShellState().connect("foo")
    with pytest.raises(NotConnected, match="nothing listens on"):
        ShellState().connect(f"ws://127.0.0.1:{free_port}/ws")
