"""Notices: events reach a real command and a real web server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import urllib.error
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from machine_kit import LIMIT_S, ManualClock
from wait_kit import wait_until

from timbr_wamp.contract import Event
from timbr_wamp.errors import InvalidArgument
from timbr_wamp.machine.events.hooks import load_hooks
from timbr_wamp.machine.events.log import EventLog
from timbr_wamp.machine.events.notices import STDERR_LIMIT, VARIABLE_LIMIT_BYTES, PostJson, RunCommand

KEEP = """
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text(sys.stdin.read() + "\\n" + os.environ["TIMBR_EVENT"])
"""


def event(kind="drained", **data):
    return Event(kind=kind, time=1.5, number=3, author="ann", data=data)


def python(program, *arguments):
    return [sys.executable, "-c", program, *map(str, arguments)]


class Web:
    """A web server that keeps what is posted, and answers as the test says."""

    def __init__(self):
        self.requests, self.status, self.location, self.hold = [], 204, None, None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), json.loads(body)))
                if outer.hold is not None:
                    outer.hold.wait(LIMIT_S)
                self.send_response(outer.status)
                if outer.location:
                    self.send_header("Location", outer.location)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *_):
                return None

        self._server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/done?key=hidden"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join(LIMIT_S)
        self._server.server_close()


@pytest.fixture
def web(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    web = Web()
    yield web
    web.close()


# --- commands --------------------------------------------------------------------------------


def test_a_command_gets_the_event_on_stdin_and_in_its_environment(tmp_path):
    target = tmp_path / "event; rm -rf x"
    notice = RunCommand(python(KEEP, target), about={"machine": "quakes"})
    notice.tell(event(count=310))
    stdin, variable = (json.loads(line) for line in target.read_text().splitlines())
    assert stdin == variable
    assert (stdin["kind"], stdin["data"], stdin["author"], stdin["number"]) == ("drained", {"count": 310}, "ann", 3)
    assert stdin["machine"] == "quakes"


def test_an_event_too_large_for_a_variable_is_whole_on_stdin(tmp_path):
    target = tmp_path / "event.json"
    RunCommand(python(KEEP, target)).tell(event(text="x" * VARIABLE_LIMIT_BYTES * 2))
    stdin, variable = (json.loads(line) for line in target.read_text().splitlines())
    assert len(stdin["data"]["text"]) == VARIABLE_LIMIT_BYTES * 2
    assert (variable["kind"], variable["data"]) == ("drained", {})


def test_a_command_need_not_read_its_input():
    assert RunCommand(python("pass")).tell(event(text="x" * 1_000_000)) is None


def test_a_command_that_fails_says_what_it_wrote():
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3") as caught:
        RunCommand(python("import sys; sys.stderr.write('a' * 5000 + 'no room'); sys.exit(3)")).tell(event())
    (note,) = caught.value.__notes__
    assert note.endswith("no room")
    assert len(note) == STDERR_LIMIT


def test_a_command_that_hangs_is_killed_with_its_children(tmp_path):
    started = tmp_path / "pid"
    program = (
        "import pathlib, subprocess, sys; child = subprocess.Popen(['sleep', '60']);"
        f"pathlib.Path({str(started)!r}).write_text(str(child.pid)); child.wait()"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        RunCommand(python(program), timeout_s=1.5).tell(event())
    pid = int(started.read_text())
    wait_until(lambda: not _runs(pid), f"process {pid} ends")


def _runs(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("argv", ["echo done", [], ["echo", 3]])
def test_a_command_is_a_list_of_texts(argv):
    with pytest.raises(InvalidArgument, match="there is no shell"):
        RunCommand(argv)


# --- the web ---------------------------------------------------------------------------------


def test_the_event_is_posted_as_json(web):
    PostJson(web.url, headers={"Authorization": "Bearer hidden"}, about={"machine": "quakes"}).tell(event(count=2))
    ((path, headers, body),) = web.requests
    assert path == "/done?key=hidden"
    assert (headers["Content-Type"], headers["Authorization"]) == ("application/json", "Bearer hidden")
    assert (body["kind"], body["data"], body["machine"]) == ("drained", {"count": 2}, "quakes")


def test_another_answer_than_success_is_a_failure(web):
    web.status = 500
    with pytest.raises(urllib.error.HTTPError, match="500") as caught:
        PostJson(web.url).tell(event())
    caught.value.close()


def test_redirects_are_not_followed(web):
    web.status, web.location = 302, web.url
    with pytest.raises(urllib.error.HTTPError, match="302") as caught:
        PostJson(web.url, headers={"Authorization": "Bearer hidden"}).tell(event())
    caught.value.close()
    assert len(web.requests) == 1


def test_a_server_that_does_not_answer_times_out(web):
    web.hold = threading.Event()
    with pytest.raises(OSError, match="timed out"):
        PostJson(web.url, timeout_s=0.2).tell(event())
    web.hold.set()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://example.org/x", "example.org", "http://", None])
def test_only_web_addresses(url):
    with pytest.raises(InvalidArgument, match="begins with http:// or https://"):
        PostJson(url)


def test_secrets_are_not_shown(web):
    notice = PostJson(web.url, headers={"Authorization": "Bearer hidden"})
    assert repr(notice) == "<PostJson to 127.0.0.1 on drained: 0 sent, 0 failed>"


# --- as hooks --------------------------------------------------------------------------------


def test_notices_get_only_their_kinds_of_events(web, tmp_path):
    target = tmp_path / "event.json"
    command, post = RunCommand(python(KEEP, target)), PostJson(web.url, kinds=["stalled", "failed"])
    log = EventLog(ManualClock(), [command, post])
    log.add("started")
    log.add("stalled", oid="a")
    log.add("drained", count=1)
    log.add("failed", reason="x")
    assert log.close(LIMIT_S)
    assert json.loads(target.read_text().splitlines()[0])["kind"] == "drained"
    assert [body["kind"] for _, _, body in web.requests] == ["stalled", "failed"]
    assert (command.sent, post.sent, log.failures.count) == (1, 2, 0)


def test_a_notice_that_fails_is_counted_and_logged_without_its_secrets(web, caplog):
    web.status = 403
    notice = PostJson(web.url, headers={"Authorization": "Bearer hidden"})
    log = EventLog(ManualClock(), [notice])
    log.add("drained")
    assert log.close(LIMIT_S)
    assert (notice.sent, notice.failures, log.failures.count) == (0, 1, 1)
    assert "HTTP Error 403" in caplog.text
    assert "hidden" not in caplog.text


def test_a_slow_notice_delays_nobody_who_adds_events(web):
    web.hold = threading.Event()
    log = EventLog(ManualClock(), [PostJson(web.url)])
    log.add("drained")
    wait_until(lambda: web.requests, "the notice was sent")
    log.add("drained")
    assert log.number == 2
    web.hold.set()
    assert log.close(LIMIT_S)
    assert len(web.requests) == 2


def test_notices_are_plugins_by_their_names():
    (notice,) = load_hooks([("PostJson", {"url": "https://example.org/x", "kinds": ["exhausted"]})])
    assert isinstance(notice, PostJson)
    assert callable(notice.on_exhausted)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"kinds": ["draind"]}, "on_drained"),
        ({"kinds": "drained"}, "kinds: a list"),
        ({"kinds": []}, "kinds: a list"),
        ({"timeout_s": 0}, "timeout_s: seconds"),
        ({"timeout_s": "3"}, "timeout_s: seconds"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, says):
    with pytest.raises(InvalidArgument, match=says):
        RunCommand(["true"], **options)


def test_the_environment_of_the_process_is_not_changed(tmp_path):
    RunCommand(python("pass")).tell(event())
    assert "TIMBR_EVENT" not in os.environ
