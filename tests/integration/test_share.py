"""A notebook that puts its own machine on the router, and takes it off: real kernels, a real router."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from bridging import BridgeProcess
from notebooks import Notebook
from wait_kit import wait_until

import timbr_wamp
from timbr_wamp import runtime
from timbr_wamp.client import Client
from timbr_wamp.errors import TokenRejected
from timbr_wamp.router import Router
from timbr_wamp.runtime import BridgeFile
from timbr_wamp.settings import Settings, load_settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@contextlib.contextmanager
def a_notebook() -> Iterator[Notebook]:
    """A notebook with the extension loaded and a machine ``m``."""
    notebook = Notebook()
    with notebook.client.setup_kernel():
        notebook("%load_ext timbr_wamp\nimport timbr_wamp\nm = timbr_wamp.Machine(2)\nm[0] = lambda x: x + 1")
        yield notebook


@pytest.fixture(scope="module")
def lasting_notebook() -> Iterator[Notebook]:
    """One kernel for the tests that leave it running: starting one takes seconds."""
    with a_notebook() as notebook:
        yield notebook


@pytest.fixture
def notebook(lasting_notebook: Notebook) -> Iterator[Notebook]:
    """A notebook that is off the router, and is taken off it again."""
    yield lasting_notebook
    lasting_notebook("m.unshare(); m.stop()")


@pytest.fixture
def passing_notebook() -> Iterator[Notebook]:
    """A notebook whose kernel the test may end."""
    with a_notebook() as notebook:
        yield notebook


@pytest.fixture
def client(router: Router, settings: Settings) -> Iterator[Client]:
    with timbr_wamp.connect(router.url, router.admin_token, settings=settings) as client:
        yield client


def bridge_of(settings: Settings, kernel_id: str) -> BridgeFile | None:
    """The bridge of a kernel that runs."""
    file = runtime.read_file(runtime.bridge_file(settings.runtime_dir, kernel_id), BridgeFile)
    return file if file is not None and file.alive() else None


def listed(client: Client) -> dict[str, str]:
    """Names and ids of the kernels that the router lists."""
    return {info.name: info.kernel_id for info in client.kernels() if info.state != "offline"}


def token_of(text: str) -> str:
    """The token in the link that a text shows."""
    return re.search(r"#token=([^&\s]+)&", text)[1]


def accepts(router: Router, settings: Settings, token: str) -> bool:
    """Whether the router accepts a token."""
    try:
        timbr_wamp.connect(router.url, token, settings=settings).close()
    except TokenRejected:
        return False
    return True


def test_when_share_returns_the_machine_is_listed_and_answers_and_the_link_opens_it(router, client, settings, notebook):
    shown = notebook("shared = m.share('lab_book')\nprint(shared)")
    assert listed(client) == {"lab_book": notebook("print(shared.kernel_id)").strip()}
    assert client.kernel("lab_book").machine()(3)[2] == 4
    with timbr_wamp.connect(router.url, token_of(shown), settings=settings) as visitor:
        assert visitor.role == "admin"
        assert visitor.kernel("lab_book").machine().put(1)
    notebook("shared")
    link = notebook.cell.outputs[0]["data"]["text/html"]
    assert f'<a href="{router.page_url}#token=page_' in link


def test_sharing_twice_changes_nothing_and_other_options_are_taken_over(router, client, settings, notebook):
    first = notebook("print(m.share('one'))")
    bridge = bridge_of(settings, listed(client)["one"])
    assert set(first.strip().splitlines()) < set(notebook("%wamp share").strip().splitlines())
    assert bridge_of(settings, listed(client)["one"]).pid == bridge.pid
    again = notebook("%wamp share --name two --role viewer")
    assert listed(client) == {"two": bridge.kernel_id}
    assert not accepts(router, settings, token_of(first))
    with timbr_wamp.connect(router.url, token_of(again), settings=settings) as visitor:
        assert visitor.role == "viewer"


def test_a_machine_that_is_made_later_is_there_when_share_returns(client, notebook):
    notebook("%wamp share --name later")
    notebook("other = timbr_wamp.Machine(2, name='other')\nother.share()")
    assert client.kernel("later").machine("other")(5)[1] == 5


def test_the_verbs_go_to_the_kernel_that_was_shared_unless_the_user_selected_another(
    client, notebook, passing_notebook
):
    passing_notebook("m.share('demo')")
    demo = client.kernel("demo").machine()
    assert "demo" in notebook("%wamp connect")
    assert "the verbs of %wamp go to mine/machine" in notebook("%wamp share --name mine")
    assert notebook("%wamp put 1").startswith("mine/machine: ")
    assert "demo/machine: revision" in notebook("%wamp select demo\n%wamp set 1 lambda x: x")
    assert "go to demo, as before; `%wamp select mine`" in notebook("%wamp share")
    assert "demo/machine:" in notebook("%wamp start")
    notebook("%wamp disconnect\nm.unshare()")
    notebook("m.share('mine')")
    assert notebook("%wamp delete 0").startswith("mine/machine: ")
    assert demo.status.put == 0
    notebook("m[0] = lambda x: x + 1\n%wamp disconnect")


def test_unshare_takes_it_off_and_ends_the_link_and_the_machine_goes_on(router, client, settings, notebook):
    notebook("m.start()")
    token = token_of(notebook("%wamp share --name mine"))
    kernel_id = listed(client)["mine"]
    assert "taken off" in notebook("%wamp unshare")
    assert listed(client) == {}
    assert bridge_of(settings, kernel_id) is None
    wait_until(lambda: not accepts(router, settings, token), "the token in the link is revoked")
    assert notebook("m.put(1)\nm.wait(5), m.running") == "(True, True)"
    assert notebook("m.unshare()") == "False"
    assert "was not shared" in notebook("%wamp unshare")
    notebook("m.share('mine')")
    assert listed(client) == {"mine": kernel_id}


def test_a_killed_bridge_is_back_by_itself(client, settings, notebook):
    notebook("%wamp share --name mine")
    kernel_id = listed(client)["mine"]
    pid = bridge_of(settings, kernel_id).pid
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (file := bridge_of(settings, kernel_id)) and file.pid != pid, "another bridge runs")
    notebook("%wamp share")
    assert client.kernel(kernel_id).machine()(3)[2] == 4


def test_two_notebooks_are_two_kernels_and_leave_one_by_one(client, notebook, passing_notebook):
    one, two = notebook, passing_notebook
    one("%wamp share --name one")
    two("%wamp share --name two")
    assert set(listed(client)) == {"one", "two"}
    one("%wamp unshare")
    assert set(listed(client)) == {"two"}
    assert client.kernel("two").machine()(3)[2] == 4


def test_the_bridge_ends_with_its_kernel_and_a_restarted_one_is_shared_again(
    router, client, settings, passing_notebook
):
    token = token_of(passing_notebook("%wamp share --name mine"))
    kernel_id = listed(client)["mine"]
    pid = bridge_of(settings, kernel_id).pid
    passing_notebook.restart()
    wait_until(lambda: listed(client) == {}, "the router lists it no more")
    wait_until(lambda: not runtime.process_started(pid), "its bridge ended")
    wait_until(lambda: not accepts(router, settings, token), "the token in the link is revoked")
    passing_notebook("import timbr_wamp\nm = timbr_wamp.Machine(2)\nm.share('mine')")
    assert listed(client) == {"mine": kernel_id}
    assert client.kernel(kernel_id).machine()(3)[1] == 3


def test_a_kernel_that_is_killed_is_off_the_router(router, client, settings, passing_notebook):
    token = token_of(passing_notebook("%wamp share --name mine"))
    os.kill(int(passing_notebook("import os; print(os.getpid())")), signal.SIGKILL)
    wait_until(lambda: listed(client) == {}, "the router lists it no more")
    wait_until(lambda: not accepts(router, settings, token), "the token in the link is revoked")
    assert listed(client) == {}


def test_a_bridge_that_somebody_started_by_hand_is_taken_over(router, client, settings, notebook):
    file = notebook("from ipykernel.connect import get_connection_file\nprint(get_connection_file())").strip()
    with BridgeProcess(settings, router, file, "--name", "by_hand") as bridge:
        wait_until(lambda: "by_hand" in listed(client), "the bridge is there")
        assert "not put there by share" in str(notebook.fails("%wamp unshare"))
        notebook("m.share()")
        assert bridge_of(settings, listed(client)["by_hand"]).pid == bridge.pid
        notebook("m.unshare()")
        assert listed(client) == {}
        assert not bridge.alive


def test_a_token_that_may_not_be_a_host_is_refused_with_the_reason(router, client, settings, notebook):
    error = notebook.fails(f"m.share(url={router.url!r}, token='nobody.nothing')")
    assert error.ename == "TokenRejected"
    error = notebook.fails(f"m.share(url={router.url!r}, token={router.admin_token!r})")
    assert error.ename == "NotAuthorized"
    assert listed(client) == {}
    assert not list(settings.runtime_dir.glob("shared-*"))


def test_without_a_router_it_says_how_and_starts_one_if_told(crossbar, passing_notebook):
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    folders = {"TIMBR_WAMP_RUNTIME_DIR": f"{folder}/run", "TIMBR_WAMP_DATA_DIR": f"{folder}/d"}
    passing_notebook(f"import os\nos.environ |= {folders}")
    passing_notebook("m.close()\nm = timbr_wamp.Machine(2)\nm[0] = lambda x: x + 1")
    error = passing_notebook.fails("m.share()")
    assert error.ename == "NoRouter"
    assert "m.share(start_router=True)" in error.evalue
    assert "timbr-wamp router stop`" in passing_notebook("%wamp share --up --name mine")
    settings = load_settings(runtime_dir=folder / "run", data_dir=folder / "d")
    with timbr_wamp.connect(settings=settings) as client:
        assert client.kernel("mine").machine()(3)[2] == 4
    assert "token=" not in (folder / "run/log-up.txt").read_text()
    passing_notebook.end()
    with timbr_wamp.connect(settings=settings) as client:  # the router lives on
        wait_until(lambda: listed(client) == {}, "the router lists it no more")
    command = [sys.executable, "-m", "timbr_wamp", "router", "stop"]
    subprocess.run(command, env=os.environ | folders, check=True, timeout=30)
    wait_until(lambda: not list((folder / "run").glob("host-*")), "the host ended with it")
    shutil.rmtree(folder)
