"""Status cards and progress bars in a real kernel: what reaches the notebook, and under which cell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

LIMIT_S = 20.0

SETUP = """
import threading
from timbr_wamp import Machine
from timbr_wamp.display import display_status, show_progress
closed = threading.Event()
m = Machine(2, serve=False)
m[0] = lambda x: x * 2
m.start()
"""
SHOW = "card = display_status(lambda: m.status, interval_s=0.05, ended=closed.is_set)"


class Kernel:
    """A kernel, and all that it has published so far."""

    def __init__(self, client: BlockingKernelClient) -> None:
        self._client = client
        self.messages: list[dict[str, Any]] = []

    def run(self, code: str) -> str:
        """Run a cell that must go well; return its ``msg_id``."""
        msg_id = self._client.execute(code)
        content = self.reply(msg_id)
        assert content["status"] == "ok", content
        return msg_id

    def begin(self, code: str) -> str:
        """Begin a cell; return its ``msg_id``."""
        return self._client.execute(code)

    def reply(self, msg_id: str) -> dict[str, Any]:
        """Wait for a cell's reply."""
        while True:
            reply = self._client.get_shell_msg(timeout=LIMIT_S)
            if reply["parent_header"].get("msg_id") == msg_id:
                return dict(reply["content"])

    def wait_for(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first message that is wanted, of those that came and those to come."""
        looked_at = 0
        deadline = time.monotonic() + LIMIT_S
        while True:
            for message in self.messages[looked_at:]:
                if wanted(message):
                    return message
            looked_at = len(self.messages)
            assert time.monotonic() < deadline, f"it did not come, but {self.messages[-3:]}"
            self.messages.append(self._client.get_iopub_msg(timeout=LIMIT_S))

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the messages of these kinds that came so far."""
        return [message for message in self.messages if message["msg_type"] in kinds]


def shows(message: dict[str, Any], kind: str, text: str) -> bool:
    """Tell whether a message displays a text."""
    return message["msg_type"] == kind and text in message["content"]["data"]["text/plain"]


@pytest.fixture(scope="module")
def manager() -> Iterator[KernelManager]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.fixture
def kernel(manager: KernelManager) -> Iterator[Kernel]:
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=LIMIT_S)
    kernel = Kernel(client)
    kernel.run(SETUP)
    yield kernel
    kernel.run("closed.set(); m.close()")
    client.stop_channels()


def test_a_card_is_updated_in_its_own_cell_while_others_run_and_until_it_is_stopped(kernel: Kernel) -> None:
    cell = kernel.run(SHOW)
    first = kernel.wait_for(lambda one: shows(one, "display_data", "● running"))
    assert "<b>running</b>" in first["content"]["data"]["text/html"]
    other = kernel.run("for n in range(31): m.put(n)\nassert m.wait(10)\n'done'")
    update = kernel.wait_for(lambda one: shows(one, "update_display_data", "processed    31"))
    kernel.run(
        "card.stop(); assert not card.running; assert 'timbr-live-status' not in map(str, threading.enumerate())"
    )
    last = kernel.wait_for(lambda one: shows(one, "update_display_data", "no longer updated"))
    drawn = kernel.of("display_data", "update_display_data")
    assert {one["parent_header"]["msg_id"] for one in drawn} == {cell} != {other}
    assert len({one["content"]["transient"]["display_id"] for one in (first, update, last)}) == 1
    assert kernel.of("stream") == [], "nothing is printed"
    assert kernel.of("execute_result")[0]["content"]["data"]["text/plain"] == "'done'"


def test_a_card_ends_when_the_machine_is_closed(kernel: Kernel) -> None:
    kernel.run(f"{SHOW}\ncard")
    kernel.wait_for(lambda one: shows(one, "display_data", "● running"))
    kernel.run("m.close(); closed.set(); assert card.wait(10)")
    kernel.wait_for(lambda one: shows(one, "update_display_data", "no longer updated"))
    assert kernel.of("execute_result") == [], "as a cell's result a card shows nothing more"


def test_values_show_themselves(kernel: Kernel) -> None:
    kernel.run("m(14)")
    record = kernel.wait_for(lambda one: one["msg_type"] == "execute_result")["content"]["data"]
    assert "dry run" in record["text/plain"]
    assert "<code>28</code>" in record["text/html"]
    kernel.run("m.status")
    status = kernel.wait_for(lambda one: shows(one, "execute_result", "● running"))["content"]["data"]
    assert "queue depth" in status["text/html"]


PROGRESS = """
from timbr_wamp.contract import Progress
steps = iter(range(5))
def ask():
    done = next(steps)
    return Progress(done=done, total=4, percentage=25.0 * done, state="running", complete=done == 4)
"""


def test_a_notebook_has_tqdms_bar(kernel: Kernel) -> None:
    cell = kernel.run(f"{PROGRESS}\nassert show_progress(ask, interval_s=0.01).complete")
    bar = kernel.wait_for(lambda one: one["msg_type"] == "stream" and "4/4" in one["content"]["text"])
    assert bar["parent_header"]["msg_id"] == cell


def test_an_interrupt_ends_the_bar_and_leaves_the_machine_running(kernel: Kernel, manager: KernelManager) -> None:
    cell = kernel.begin(
        f"{PROGRESS}\nshow_progress(lambda: Progress(done=1, total=4, state='running'), interval_s=0.05)"
    )
    kernel.wait_for(lambda one: one["msg_type"] == "stream" and "1/4" in one["content"]["text"])
    manager.interrupt_kernel()
    assert kernel.reply(cell)["ename"] == "KeyboardInterrupt"
    kernel.run("assert m.running")


def test_a_saved_notebook_has_the_newest_card() -> None:
    wait = "import time\nend = time.monotonic() + 10\nwhile m.status.processed < 31: assert time.monotonic() < end\n"
    source = f"{SHOW}\nfor n in range(31): m.put(n)\n{wait}card.stop()\nm.close()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in (SETUP, source)])
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    (output,) = notebook.cells[1].outputs
    assert output["output_type"] == "display_data"
    assert "processed    31" in output["data"]["text/plain"]
