"""The page in real Chromium, served by the real router, over a real kernel's machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from wait_kit import wait_until

import timbr_wamp
from tests.conftest import require_service
from timbr_wamp import runtime
from timbr_wamp.client import RemoteMachine
from timbr_wamp.components import launcher
from timbr_wamp.dashboard import build, page_dir
from timbr_wamp.errors import TimbrError
from timbr_wamp.router import Router, TokenStore, free_port
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

ROOT = Path(__file__).parents[2]
CHROMIUM = Path("/usr/bin/chromium")
RUNNING, PAUSED, UNKNOWN = (f'[data-testid=light]:text-is("{text}")' for text in ("Running", "Paused", "Not known"))
#: Runs in the kernel: a slow live source, markup as data, and a slot that fails on every seventh; and a machine of
#: which every message fails, in a slot without a source text.
STARTUP = '''
import itertools, time
from timbr_wamp import Machine

def ticks():
    for n in itertools.count(1):
        yield n
        time.sleep(0.02)

def label(n):
    """Markup that must stay text: <script>alert(1)</script>"""
    return {"n": n, "text": "<b id='markup'>bold</b>"}

def fail_on_sevenths(labelled):
    return 1 / (labelled["n"] % 7)

machine = Machine(stages=4, bufsize=64)
machine[0] = label
machine[1] = fail_on_sevenths
machine.source = ticks
machine.start()

failing = Machine(stages=2, name="failing")
failing[0] = len
failing.source = ticks
failing.start()
'''


def installed() -> None:
    """Raise an OSError when something that these tests need is missing."""
    if not CHROMIUM.is_file():
        raise FileNotFoundError(f"{CHROMIUM}: apt-get install chromium")
    if shutil.which("node") is None:
        raise FileNotFoundError("node is not on the PATH")
    if not build.is_up_to_date() or not (ROOT / "frontend/node_modules/playwright-core").is_dir():
        raise FileNotFoundError("the page is not built from these sources: make page")


class Browser:
    """Chromium, by ``tests/node/browser.mjs``."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["node", str(ROOT / "tests/node/browser.mjs"), str(CHROMIUM)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, verb: str, **arguments: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": verb, **arguments}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "error" in answer:
            pytest.fail(f"{verb} {arguments.get('selector', '')}: {answer}", pytrace=True)
        return answer["value"]

    def close(self) -> None:
        with self._process as process:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(timeout=20)


@dataclass
class Stack:
    """A router, a host, a kernel with a machine, and a token of each role."""

    settings: Settings
    router: Router
    tokens: dict[str, str] = field(repr=False)
    kernel_id: str

    def link(self, role: str) -> str:
        return f"{self.router.page_url}#token={self.tokens[role]}"


@pytest.fixture
def browser() -> Iterator[Browser]:
    require_service("Chromium with the page's packages", installed)
    chromium = Browser()
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def stack(module_settings: Settings, lasting_routers: list[Router], tmp_path_factory: Any) -> Iterator[Stack]:
    settings = replace(module_settings, realm="works")  # the page learns the realm from the router
    router = Router.start(settings, port=free_port(), page_dir=page_dir())
    store = TokenStore(Path(router.node_dir))
    tokens = {"admin": router.admin_token} | {r: store.create(f"a_{r}", r) for r in ("viewer", "operator")}
    host = start_host(settings, router)
    startup = tmp_path_factory.mktemp("ticker") / "startup.py"
    startup.write_text(STARTUP)
    with timbr_wamp.connect(router.url, router.admin_token, settings=settings) as client:
        starting = lambda: client.start_kernel("ticker", startup=str(startup))  # noqa: E731
        kernel_id = wait_until(starting, "the host is on the router", not_yet=(TimbrError,)).id
    made = Stack(settings, router, tokens, kernel_id)
    yield made
    host.terminate()
    host.wait(timeout=20)
    for file in settings.runtime_dir.glob("kernel-*.json"):
        content = runtime.read_file(file, runtime.KernelFile)
        assert content is None or launcher.end_process(content)
    made.router.stop()
    if made.router in lasting_routers:
        lasting_routers.remove(made.router)


@pytest.fixture
def machine(stack: Stack) -> Iterator[RemoteMachine]:
    """The machine of the stack, for tests that change it; they find the next test's as it began."""
    with timbr_wamp.connect(stack.router.url, stack.tokens["admin"], settings=stack.settings) as client:
        machine = client.kernel(stack.kernel_id).machine()
        before = machine.status.revision
        yield machine
        machine.rollback(before)
        machine.set_source("ticks()", replace=True)
        machine.start()


def start_host(settings: Settings, router: Router) -> subprocess.Popen[bytes]:
    environ = os.environ | {
        "TIMBR_WAMP_URL": router.unix_url,
        "TIMBR_WAMP_TOKEN": router.host_token,
        "TIMBR_WAMP_REALM": settings.realm,
        "TIMBR_WAMP_HOST": router.host_token.partition(".")[0],
        "TIMBR_WAMP_RUNTIME_DIR": str(settings.runtime_dir),
        "TIMBR_WAMP_DATA_DIR": str(settings.data_dir),
    }
    return subprocess.Popen([sys.executable, "-m", "timbr_wamp", "host"], env=environ, stdin=subprocess.DEVNULL)


def number(browser: Browser, name: str) -> int:
    return int(browser("text", selector=f"[data-testid=count-{name}]").replace(",", ""))


def test_an_admin_sees_the_machine_run(stack, browser, tmp_path):
    browser("open", url=stack.link("admin"))
    browser("wait", selector=RUNNING)
    assert browser("address") == stack.router.page_url, "the token has left the address bar"
    assert "admin" in browser("text", selector="[data-testid=link]")
    browser("wait", selector='role=list[name="Latest errors"] >> text=ZeroDivisionError')
    browser("wait", selector='role=list[name="Latest records"] >> li >> nth=5')
    assert number(browser, "put") > 0
    assert number(browser, "errored") > 0
    browser("click", selector="[data-testid=slot-0] summary")
    assert "<script>alert(1)</script>" in browser("text", selector="[data-testid=slot-0] pre")
    browser("click", selector='role=list[name="Latest errors"] >> summary')
    assert "fail_on_sevenths" in browser("text", selector='role=list[name="Latest errors"] >> details[open] pre')
    browser("screenshot", path=str(tmp_path / "page.png"))
    assert browser("problems") == []


def test_what_the_machine_says_is_text_and_never_markup(stack, browser):
    browser("open", url=stack.link("viewer"))
    browser("wait", selector='role=list[name="Latest records"] >> li >> nth=5')
    browser("click", selector='role=list[name="Latest records"] >> summary')
    browser("wait", selector='role=button[name="Go on"]')  # who reads one wants the list to stand still
    assert "<b id='markup'>" in browser("text", selector=".values pre >> nth=1")
    assert browser("count", selector="#markup") == 0
    assert browser("problems") == []


def test_policies_error_groups_and_progress_are_on_the_page(stack, browser, machine, tmp_path):
    browser("open", url=stack.link("viewer"))
    browser("wait", selector=RUNNING)
    group = "[data-testid=group-1-ZeroDivisionError]"
    browser("wait", selector=f"{group} >> text=open")
    times = [int(browser("text", selector=f"{group} strong").rstrip("×").replace(",", ""))]
    browser("wait", selector=f"{group} strong:not(:text-is('{times[0]}×'))")  # asked for again as failures come
    assert browser("count", selector="[data-testid=policy-1]") == 0
    machine.set_policy(1, {"retries": 1, "on_error": "drop"})
    browser("wait", selector="[data-testid=policy-1]:text-is('retry 1, then drop')")
    machine.set_source("range(400, 1000)", total=600, replace=True)
    browser("wait", selector="[role=progressbar][aria-valuenow='100']")
    browser("wait", selector="[data-testid=count-dropped]:not(:text-is('0'))")
    browser("screenshot", path=str(tmp_path / "policies.png"))


def open_failing(stack: Stack, browser: Browser, role: str) -> None:
    """Open the page, and on it the machine of which every message fails."""
    browser("open", url=f"{stack.link(role)}&kernel={stack.kernel_id}")
    browser("click", selector="role=button[name=/^failing/]")
    browser("wait", selector='h2:has-text("failing")')


def test_a_machine_whose_messages_all_fail_does_not_look_well(stack, browser, tmp_path):
    with timbr_wamp.connect(stack.router.url, stack.tokens["viewer"], settings=stack.settings) as client:
        metrics = client.kernel(stack.kernel_id).machine("failing").metrics
        wait_until(lambda: len(metrics().time) > 6, "the machine has counted for some seconds")
    open_failing(stack, browser, "viewer")
    assert browser("address") == stack.router.page_url
    browser("wait", selector="[data-testid=health]:text-is('Every message fails')")

    def counted_before() -> bool:
        """The machine counted before the page was opened, and the page says so."""
        said = browser("text", selector=".health")
        failed, of, span = re.search(r"(\d+) of (\d+) in the last (.+)", said.replace(",", "")).groups()
        assert failed == of
        return span == "1 min" or int(span.removesuffix(" s")) > 4

    wait_until(counted_before, "the page has the machine's history", 10)
    assert browser("count", selector=".head-bad .light-bad") == 1
    assert number(browser, "processed") == 0
    browser("wait", selector='[data-testid=count-errored] + .note:has-text("/s")')
    assert browser("text", selector="[data-testid=count-processed] + .note") == "0 /s"
    group = browser("text", selector="[data-testid=group-0-TypeError] .line")
    assert group.split("\n") == ["TypeError: object of type 'int' has no len()", "in slot 0"]
    browser("screenshot", path=str(tmp_path / "failing.png"))
    assert browser("problems") == []


def test_a_function_without_a_source_is_not_shown_as_another_one(stack, browser):
    open_failing(stack, browser, "admin")
    browser("click", selector="[data-testid=slot-0] summary")
    assert "cannot be shown" in browser("text", selector="[data-testid=slot-0] .slot-body")
    browser("click", selector='[data-testid=slot-0] >> role=button[name="Edit"]')
    assert browser("value", selector="#slot-0-source") == "def len(message):\n    "
    assert not browser("enabled", selector='[data-testid=slot-0] >> role=button[name="Set"]')


def test_an_admin_tries_a_function_on_the_newest_records_before_it_is_set(stack, browser, machine, tmp_path):
    browser("open", url=stack.link("admin"))
    browser("wait", selector=RUNNING)
    browser("click", selector="[data-testid=slot-0] summary")
    browser("click", selector='[data-testid=slot-0] >> role=button[name="Edit"]')
    trial, revision = "[data-testid=trial]", machine.status.revision
    attempt = '[data-testid=slot-0] >> role=button[name="Try"]'
    for body, summary in (
        (
            "return {'n': n, 'text': \"<b id='markup'>bold</b>\"}",
            "No outcome differs on the newest 10 records; none fails.",
        ),
        ("return 1 / 0", "It fails on the newest 10 records."),
        ("return n // (n % 2)", "10 of 10 outcomes differ on the newest 10 records; it fails on 5."),
    ):
        browser("fill", selector="#slot-0-source", text=f"def label(n):\n    {body}\n")
        assert browser("count", selector=trial) == 0, "the outcome of another text"
        browser("click", selector=attempt)
        browser("wait", selector=f"{trial} >> text={summary}")
    assert "ZeroDivisionError: integer division or modulo by zero" in browser("text", selector=trial)
    browser("screenshot", path=str(tmp_path / "trial.png"))
    browser("fill", selector="#slot-0-source", text="def label(n:\n")
    browser("click", selector=attempt)
    browser("wait", selector="[data-testid=slot-0] >> role=alert")
    assert machine.status.revision == revision
    assert browser("problems") == []


def test_integers_of_any_size_keep_their_digits_live_and_when_asked_for(stack, browser, machine):
    browser("open", url=stack.link("viewer"))
    browser("wait", selector=RUNNING)
    shown = 'role=list[name="Latest records"] >> text=[9007199254740993,-9007199254740995,18446744073709551615,"'
    machine[3] = "lambda *values: [values[-1], -2**53 - 3, 2**64 - 1, '9007199254740993']"
    machine.set_source("iter([2**53 + 1] * 60)", replace=True)
    browser("wait", selector=shown)
    browser("reload")
    browser("wait", selector=shown)
    browser("click", selector=shown)
    assert browser("text", selector=".values pre >> nth=0") == "9007199254740993"
    assert browser("problems") == []


def test_an_operator_pauses_and_resumes_but_writes_no_code(stack, browser):
    browser("open", url=stack.link("operator"))
    browser("wait", selector=RUNNING)
    browser("click", selector='role=button[name="Pause"]')
    browser("wait", selector=PAUSED)
    assert not browser("enabled", selector='role=button[name="Pause"]')
    browser("wait", selector='role=list[name="Latest events"] >> text=by a_operator')
    browser("click", selector='role=button[name="Resume"]')
    browser("wait", selector=RUNNING)
    browser("click", selector="[data-testid=slot-0] summary")
    assert browser("count", selector='role=button[name="Edit"]') == 0


def test_a_viewer_sees_all_and_can_do_nothing(stack, browser):
    browser("open", url=stack.link("viewer"))
    browser("wait", selector=RUNNING)
    for name in ("Start", "Pause", "Resume", "Stop"):
        assert not browser("enabled", selector=f'role=button[name="{name}"]'), name
    assert browser("count", selector='role=button[name="Try again"]') == 0


def test_an_admin_writes_a_slot_and_reads_at_the_field_why_bad_source_is_refused(stack, browser, machine):
    browser("open", url=stack.link("admin"))
    browser("wait", selector=RUNNING)
    browser("click", selector="[data-testid=slot-2] summary")
    browser("click", selector='[data-testid=slot-2] >> role=button[name="Write a function"]')
    browser("fill", selector="#slot-2-source", text="def halve(x:\n    return x / 2\n")
    browser("click", selector='[data-testid=slot-2] >> role=button[name="Set"]')
    browser("wait", selector="[data-testid=slot-2] >> role=alert")
    assert "does not compile" in browser("text", selector="[data-testid=slot-2] >> role=alert")
    browser("fill", selector="#slot-2-source", text="def halve(x):\n    return x / 2\n")
    browser("click", selector='[data-testid=slot-2] >> role=button[name="Set"]')
    browser("wait", selector='[data-testid=slot-2] .title:text-is("halve")')
    assert "return x / 2" in browser("text", selector="[data-testid=slot-2] pre")
    slot = machine.slots[2]
    assert (slot.function, slot.author) == ("halve", "admin")


def test_without_a_token_that_is_known_the_page_asks_for_one(stack, browser):
    browser("open", url=stack.router.page_url)
    browser("wait", selector="#token")
    browser("fill", selector="#token", text="admin.not_the_secret")
    browser("click", selector='role=button[name="Connect"]')
    browser("wait", selector='[role=alert]:has-text("did not accept")')
    browser("fill", selector="#token", text=stack.tokens["viewer"])
    browser("click", selector='role=button[name="Connect"]')
    browser("wait", selector=RUNNING)
    browser("reload")  # the token is kept for this tab
    browser("wait", selector=RUNNING)
    assert browser("count", selector="#token") == 0


def test_a_script_with_another_wamp_library_reads_complete_records(stack):
    require_service("the page's packages", installed)
    done = subprocess.run(
        ["node", "tests/node/wampy_client.mjs", "--url", stack.router.url, "--kernel-id", stack.kernel_id,
         "--realm", stack.settings.realm, "--count", "100", "--timeout-s", "30"],
        cwd=ROOT, env=os.environ | {"TIMBR_WAMP_TOKEN": stack.tokens["viewer"]},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, last = map(json.loads, done.stdout.splitlines())
    assert first["subscribed"]
    assert last["count"] == last["distinct"] >= 100
    assert last["ordered"]


def test_the_connection_light_shows_when_the_router_is_lost_and_back(stack, browser, lasting_routers):
    browser("open", url=stack.link("admin"))
    browser("wait", selector=RUNNING)
    port = int(re.search(r":(\d+)", stack.router.page_url)[1])
    os.kill(stack.router.pid, signal.SIGKILL)
    browser("wait", selector='[data-testid=link]:has-text("No connection to the router")')
    browser("wait", selector=UNKNOWN)
    for name in ("Start", "Pause", "Resume", "Stop"):
        assert not browser("enabled", selector=f'role=button[name="{name}"]'), name
    stack.router.stop()
    starting = lambda: Router.start(stack.settings, port=port, page_dir=page_dir())  # noqa: E731
    stack.router = wait_until(starting, "the port is free again", not_yet=(TimbrError,))
    lasting_routers.append(stack.router)
    browser("wait", selector=RUNNING, timeout_ms=30_000)
    before = number(browser, "put")
    browser("wait", selector=f'[data-testid=count-put]:not(:text-is("{before:,}"))')
