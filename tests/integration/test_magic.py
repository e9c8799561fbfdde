"""``%wamp`` as people use it: a real notebook kernel, a real router, a real kernel with a machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from jupyter_client.session import Session
from notebooks import Notebook
from wait_kit import wait_until

import timbr_wamp
from timbr_wamp import runtime
from timbr_wamp.client import Client, RemoteKernel
from timbr_wamp.components import launcher
from timbr_wamp.contract import Policy
from timbr_wamp.errors import NoMachine
from timbr_wamp.names import new_kernel_id
from timbr_wamp.router import Router
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

STARTUP = """
import timbr_wamp
m = timbr_wamp.Machine(4)
m.start()
"""


@pytest.fixture(scope="module")
def client(router: Router, settings: Settings) -> Iterator[Client]:
    """A client beside the notebook, to look at what it did."""
    with timbr_wamp.connect(settings=settings) as client:
        yield client


@pytest.fixture(scope="module")
def kernel_of_demo(client: Client, settings: Settings) -> Iterator[RemoteKernel]:
    """A kernel named demo with a machine, on the router."""
    folder = Path(tempfile.mkdtemp(prefix="tw", dir="/tmp"))
    (folder / "startup.py").write_text(STARTUP)
    kernel_id = new_kernel_id("lab")
    with on_router(settings, kernel_id, "demo", startup=str(folder / "startup.py")):
        wait_until(lambda: machines_of(client, kernel_id), "the kernel's machine is on the router", 30)
        yield client.kernel(kernel_id)
    shutil.rmtree(folder)


@pytest.fixture
def demo(kernel_of_demo: RemoteKernel) -> RemoteKernel:
    """The kernel named demo; its machine runs, with empty slots, whatever the tests before did to it."""
    machine = kernel_of_demo.machine()
    if not all(slot.identity for slot in machine.slots):
        machine[0 : len(machine.slots)] = [None] * len(machine.slots)
    machine.start()
    return kernel_of_demo


@contextmanager
def on_router(settings: Settings, kernel_id: str, name: str, startup: str | None = None) -> Iterator[None]:
    """Start a kernel and its bridge; end both."""
    launcher.start_kernel(settings.runtime_dir, kernel_id, name=name, startup=startup)
    bridge = subprocess.Popen([sys.executable, "-m", "timbr_wamp", "bridge", "--kernel-id", kernel_id])
    try:
        yield
    finally:
        bridge.terminate()
        bridge.wait(10)
        file = runtime.read_file(runtime.kernel_file(settings.runtime_dir, kernel_id), runtime.KernelFile)
        assert file is not None
        launcher.end_process(file)


def machines_of(client: Client, kernel_id: str) -> list[str]:
    """Return the names of a kernel's machines as the router knows them."""
    return [brief.name for info in client.kernels() if info.kernel_id == kernel_id for brief in info.machines]


@pytest.fixture(scope="module")
def kernel_of_notebook(kernel_of_demo: RemoteKernel) -> Iterator[Notebook]:
    """One notebook kernel for all tests: starting one takes seconds."""
    notebook = Notebook()
    with notebook.client.setup_kernel():
        yield notebook


@pytest.fixture
def notebook(demo: RemoteKernel, kernel_of_notebook: Notebook) -> Iterator[Notebook]:
    """The notebook with the magics just loaded and connected; they are unloaded afterwards."""
    kernel_of_notebook("%load_ext timbr_wamp")
    kernel_of_notebook("%wamp connect")
    yield kernel_of_notebook
    kernel_of_notebook("%unload_ext timbr_wamp")


# --- connection --------------------------------------------------------------------------------


def test_connecting_finds_the_local_router_and_selects_the_only_kernel(notebook, demo):
    shown = notebook("%wamp connect")
    assert "connected" in shown
    assert demo.id in shown


def test_connecting_again_keeps_the_connection_and_reconnect_replaces_it(notebook, demo):
    notebook("from timbr_wamp.magic.extension import _loaded; state = _loaded[get_ipython()].state")
    notebook("before = state.client\nc = %wamp connect")
    assert notebook("state.client is before") == "True"
    notebook("c = %wamp connect --reconnect")
    assert notebook("state.client is before, before.connected, state.selected.id") == f"(False, False, '{demo.id}')"


def test_a_token_is_asked_for_kept_and_never_shown(notebook, router):
    notebook(f"token = {router.admin_token!r}")
    shown = notebook("%wamp token $token")
    assert router.admin_token.partition(".")[0] in shown
    assert router.admin_token.partition(".")[2] not in shown
    assert "connected" in notebook("%wamp connect")
    assert "TIMBR_WAMP_TOKEN" in str(notebook.fails("%wamp token"))


def test_a_wrong_token_is_one_clear_sentence(notebook):
    error = notebook.fails("%wamp connect --reconnect --token nobody.nothing")
    assert error.ename == "TokenRejected"
    assert len(notebook.cell.outputs[-1]["traceback"]) == 1
    assert "nothing" not in str(notebook.cell.outputs)
    assert "connected" in notebook("%wamp status")


def test_kernels_are_listed_selected_and_found_by_what_people_know(notebook, demo):
    assert "demo" in notebook("%wamp list")
    assert demo.id in notebook("%wamp list --details")
    assert notebook(f"prefixes = %wamp list --raw\n'io.timbr.kernel.{demo.id}' in prefixes") == "True"
    assert "demo" in notebook("%wamp select demo")
    assert "demo" in notebook(f"%wamp select io.timbr.kernel.{demo.id}")
    assert notebook.fails("%wamp select nobody").ename == "UnknownKernel"
    assert "demo" in notebook("%juno select demo")


def test_with_two_kernels_one_must_be_chosen(notebook, settings, client):
    other = new_kernel_id("lab")
    with on_router(settings, other, "other"):
        wait_until(lambda: "idle" in [k.state for k in client.kernels() if k.kernel_id == other], "two kernels", 30)
        notebook("%wamp disconnect")
        error = notebook.fails("%wamp slots")
        assert error.ename == "AmbiguousKernel"
        assert "demo" in notebook("%wamp select demo")
        assert notebook.fails("%wamp select other\n%wamp slots").ename == "NoMachine"
        assert "no machine" in notebook("%wamp status")


def test_the_next_verb_reconnects_after_disconnect(notebook):
    assert notebook("%wamp disconnect") == "disconnected"
    assert notebook("%wamp disconnect") == "was not connected"
    assert "not connected" in notebook("%wamp status")
    assert "(passes its value on)" in notebook("%wamp slots")


# --- the machine -------------------------------------------------------------------------------


def test_slots_are_set_from_text_names_and_cells(notebook, demo):
    machine = demo.machine()
    notebook("def double(x): return 2 * x")
    shown = notebook("%wamp set 0 double")
    assert "demo/machine: revision" in shown
    assert "set 0" in shown
    assert "e+09" not in shown  # the time is a date
    notebook("%wamp set 1 --name half lambda x: x / 2")
    notebook("%%wamp set 2\ndef labelled(x):\n    return {'value': x}")
    notebook("%wamp set 3 json:dumps")
    assert machine(21).values == (42, 21.0, {"value": 21.0}, '{"value": 21.0}')
    assert "half" in notebook("%wamp slots")
    assert "return 2 * x" in machine.slots[0].source
    assert notebook("r = %wamp call 21\nr.values[0]") == "42"
    notebook("%wamp delete half\n%wamp delete 2\n%wamp delete 3")
    assert machine(21).values == (42, 42, 42, 42)
    number = machine.status.revision
    notebook("%wamp set 0 lambda x: -x")
    assert "set 0" in notebook("%wamp revisions")
    notebook(f"%wamp rollback {number}")
    assert machine(21).values[0] == 42


def test_messages_are_put_recorded_and_their_failures_shown(notebook, demo):
    machine = demo.machine()
    before = machine.status.processed
    notebook("%wamp set 0 lambda x: 1 / x['n']")
    notebook("n = 4\noid = %wamp put {'n': n}")
    assert notebook("%wamp put {'n': 0}").startswith("demo/machine: ")
    wait_until(lambda: machine.status.processed + machine.status.errored >= before + 2, "both are done")
    assert "0.25" in notebook("%wamp records")
    assert notebook("rows = %wamp records 2\nrows[0].oid == oid, rows[0].values[0], len(rows)") == "(True, 0.25, 2)"
    assert "ZeroDivisionError" in notebook("%wamp errors")
    assert "text/html" in notebook.cell.outputs[0]["data"]
    notebook("%wamp delete 0")


def test_the_machine_is_paused_resumed_stopped_and_started(notebook, demo):
    assert "paused" in (shown := notebook("%wamp pause"))
    assert shown.startswith("demo/machine:")
    assert notebook("s = %wamp status\ns.state, s.machine.name, s.kernel.name") == "('paused', 'machine', 'demo')"
    assert "running" in notebook("%wamp resume")
    assert "stopped" in notebook("%wamp stop --drain")
    assert "running" in notebook("%wamp start")
    assert demo.machine().status.state == "running"


def test_policies_and_handlers_are_set_and_shown(notebook, demo):
    machine = demo.machine()
    notebook("%wamp set 1 --name fragile --policy drop,retries=1 lambda x: 1 / x")
    assert machine.policy_of("fragile") == Policy(on_error="drop", retries=1)
    assert notebook("%wamp policy fragile") == "retry 1, then drop"
    assert "policy" in notebook("%wamp policy fragile default=0")
    assert machine(0).values[1] == 0
    notebook("%wamp policy 1 none\n%wamp policy machine dead_letter")
    assert notebook("%wamp policy fragile") == "dead_letter"
    notebook("%wamp policy machine record")
    assert notebook("%wamp handler RetryHandler retries=2 backoff_s=0") == "demo/machine: RetryHandler"
    assert notebook("%wamp handler") == "RetryHandler" == machine.handler
    assert "RetryHandler" in notebook("%wamp status")
    notebook("%wamp handler BaseEventHandler\n%wamp delete fragile")
    assert notebook.fails("%wamp handler NoSuchHandler").ename == "UnknownPlugin"


def test_a_change_is_tried_committed_compared_and_messages_are_looked_up(notebook, demo):
    machine = demo.machine()
    notebook("%wamp set 1 --name picky --reason 'a first try' lambda x: [].pop()")
    broken = machine.status.revision
    notebook("oid = %wamp put 3")
    oid = notebook("str(oid)").strip("'")
    wait_until(lambda: machine.lookup(oid).state == "errored", "it has failed")
    assert "IndexError" in notebook(f"%wamp lookup {oid}")
    notebook("report = %wamp trial picky --group picky lambda x: 5")
    assert notebook("report[-1].outcome, report.new_errors") == "('mended', 0)"
    notebook("report.commit(reason='five will do')")
    assert "five will do" in notebook("%wamp revisions")
    assert "lambda x: 5" in notebook(f"%wamp compare {broken} {machine.status.revision}")
    assert "same" in notebook(f"%wamp replay --trial --revision {broken} {oid}")
    assert oid in notebook("%wamp retry --group picky --canary 1")
    assert oid in notebook(f"%wamp replay {oid}")
    wait_until(lambda: len(machine.lookup(oid).attempts) == 3, "it has run again")
    assert notebook.fails("%wamp replay").ename == "UsageError"
    notebook("%wamp delete picky")


def test_failures_are_grouped_retried_and_values_tapped(notebook, demo):
    machine = demo.machine()
    notebook("values = %wamp tap f1 3")
    notebook("%wamp set 1 lambda x: {}[x]")
    notebook("oid = %wamp put 7")
    assert machine.wait(10.0)
    assert "KeyError" in notebook("%wamp groups")
    assert "text/html" in notebook.cell.outputs[0]["data"]
    notebook("%wamp set 1 lambda x: x + 1")
    assert notebook("done = %wamp retry {oid}\ndone == [oid]") == "True"
    assert machine.wait(10.0)
    assert machine.recent(1)[0].values[1] == 8
    notebook("groups = %wamp groups\n[g.resolved for g in groups if g.exc_class == 'KeyError']")
    assert notebook.text() == "[True]"
    wait_until(lambda: notebook("values[-1:]") == "[8]", "the tap has the newest value")
    notebook("values.close()\n%wamp delete 1")


def test_progress_is_shown_and_waited_for(notebook, demo):
    machine = demo.machine()
    machine.set_source("range(25)", total=25)
    assert "25" in notebook("p = %wamp progress --wait --timeout-s 20\np")
    assert notebook("p.done, p.total, p.complete") == "(25, 25, True)"
    assert "25" in notebook("%wamp progress")
    del machine.source
    machine.set(0, source="lambda x: -x", name="minus")
    assert "minus" in notebook("%wamp plot")
    assert "text/vnd.mermaid" in notebook.cell.outputs[0]["data"]
    notebook("%wamp delete minus")


def test_a_slot_that_is_not_there_is_one_clear_sentence(notebook):
    error = notebook.fails("%wamp set 99 lambda x: x")
    assert error.ename == "SlotOutOfRange"
    assert notebook.cell.outputs[-1]["traceback"][0].startswith("SlotOutOfRange: no slot 99")
    assert notebook.fails("%wamp set 0 lambda x x").ename == "InvalidSource"


@pytest.mark.parametrize(
    "line",
    [
        "",
        "conect",
        "records many",
        "connect --toke x",
        "set",
        "put",
        "put 1 +",
        "subscribe nowhere",
        "policy",
        "policy 1 forget",
        "policy 1 retries=-1",
        "handler RetryHandler often",
        "set 0 --policy forget f",
        "tap in 0",
    ],
)
def test_bad_arguments_give_a_usage_error_and_the_kernel_lives(notebook, line):
    assert notebook.fails(f"%wamp {line}").ename == "UsageError"
    assert notebook("1 + 1") == "2"


def test_help_is_shown_and_start_bridge_says_what_replaced_it(notebook):
    assert "usage: %wamp set" in notebook("%wamp set -h")
    assert "%wamp subscribe" in notebook("%wamp help")
    assert notebook.fails("%juno start_bridge").ename == "UsageError"
    assert "%wamp share" in notebook.text()


# --- the first hour ------------------------------------------------------------------------------


def test_a_comment_ends_a_line_of_any_verb(notebook, demo):
    notebook("%wamp list  # kernels\n%wamp connect # the router on this computer\n%wamp select demo # it's the one")
    notebook("%wamp set 0 lambda x: x['#'] # what is under '#'")
    assert notebook("rows = %wamp call {'#': 3}  # a dry run\nrows.values[0]") == "3"
    assert notebook("%%wamp # there\n6 * 7") == "42"
    assert notebook.fails("%wamp put # nothing").ename == "UsageError"
    notebook("%wamp delete 0 # again")


def test_what_a_cell_made_is_there_for_the_next_line_and_what_it_closed_is_gone(notebook, settings, client):
    kernel_id = new_kernel_id("lab")
    with on_router(settings, kernel_id, "fresh"):
        wait_until(lambda: "idle" in [k.state for k in client.kernels() if k.kernel_id == kernel_id], "it is there", 30)
        notebook("%wamp select fresh")
        notebook("%wamp execute import timbr_wamp")
        for round_ in range(3):
            notebook(f"%%wamp\nm = timbr_wamp.Machine(2, name='lab{round_}')\nm.start()")
            assert notebook("oid = %wamp put 1\nlen(oid)") == "24"
            assert f"lab{round_}" in notebook("%wamp list")
            notebook("%wamp execute m.close()")
            assert "NoMachine" in notebook.fails("%wamp put 1").ename
            assert machines_of(client, kernel_id) == []
        remote = client.kernel("fresh")
        remote.execute("m = timbr_wamp.Machine(2)")
        assert remote.machine().put(1)


def test_names_that_are_not_there_fail_at_once_with_those_that_are(notebook, demo):
    error = notebook.fails("%wamp select demo --machine machin")
    assert error.ename == "NoMachine"
    assert "its machines: machine; did you mean 'machine'?" in error.evalue
    assert "did you mean 'demo'?" in notebook.fails("%wamp select dmeo").evalue
    assert notebook("%wamp slots")  # the selection was not changed
    with pytest.raises(NoMachine, match="did you mean 'machine'"):
        demo.machine("machine2")


def test_json_and_python_are_both_values(notebook):
    notebook("x = 2")
    for text, value in (('{"x": true}', "{'x': True}"), ("{'x': null}", "{'x': None}"), ("[x, True]", "[2, True]")):
        assert notebook(f"r = %wamp call {text}\nr.input") == value
    assert "neither JSON nor a Python expression" in notebook.fails("%wamp put {oh no}").evalue
    assert notebook.fails("%wamp put 1 / 0").ename == "ZeroDivisionError"
    assert notebook.cell.outputs[-1]["traceback"] == ["ZeroDivisionError: division by zero"]


def test_an_error_is_its_sentence_and_the_whole_traceback_is_kept(notebook):
    notebook("from timbr_wamp import Machine\nimport re")
    assert notebook.fails("Machine(2, serve=False)[0] = re.compile('a')").ename == "NotCallable"
    (line,) = notebook.cell.outputs[-1]["traceback"]
    assert "assign one of its methods: .match" in line
    assert "m[slot]" not in line
    whole = notebook("%wamp debug last")
    assert "NotCallable" in whole
    assert "table.py" in whole


def test_an_error_says_on_which_line_of_a_longer_cell_it_arose(notebook):
    cell = "def fill(m):\n    m[9] = str\nm = Machine(2, serve=False)\nfill(m)"
    notebook("from timbr_wamp import Machine")
    assert notebook.fails(cell).ename == "SlotOutOfRange"
    assert notebook.cell.outputs[-1]["traceback"][1:] == ["  line 4: fill(m)", "  line 2, in fill: m[9] = str"]


# --- callbacks ---------------------------------------------------------------------------------


@contextmanager
def heard(notebook: Notebook) -> Iterator[list[tuple[str, str]]]:
    """Collect ``(msg_id of the cell, text)`` of all streams: nbclient drops what comes after a cell's end."""
    info = json.loads(Path(notebook.client.km.connection_file).read_text())
    session = Session(key=info["key"].encode())
    texts: list[tuple[str, str]] = []
    done = threading.Event()

    def listen() -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.subscribe(b"")
            socket.connect(f"tcp://{info['ip']}:{info['iopub_port']}")
            while not done.is_set():
                if socket.poll(100):
                    _, frames = session.feed_identities(socket.recv_multipart())
                    message = session.deserialize(frames)
                    if message["msg_type"] == "stream":
                        texts.append((message["parent_header"].get("msg_id"), message["content"]["text"]))

    thread = threading.Thread(target=listen)
    thread.start()
    notebook("print('connected')")
    wait_until(lambda: notebook("print('connected')") and texts, "the listener is connected")
    try:
        yield texts
    finally:
        done.set()
        thread.join(10)


#: Puts messages until a condition on the first subscription holds: the first event after subscribing
#: may be missed, as the machine's side hears of the subscription a moment later.
UNTIL = """
import time
deadline = time.monotonic() + 10
while True:
    status = get_ipython().run_line_magic("wamp", "status")
    if status.callbacks.subscriptions[0].{condition}:
        break
    assert time.monotonic() < deadline
    get_ipython().run_line_magic("wamp", "put 'm'")
print("mine")
"""
MSG_ID = "get_ipython().get_parent()['header']['msg_id']"


def test_callbacks_print_into_the_cell_that_subscribed(notebook):
    with heard(notebook) as texts:
        notebook("def show(record): print('record', record.input)")
        cell = notebook(f"w = %wamp subscribe records show\n{MSG_ID}").strip("'")
        assert notebook(UNTIL.format(condition="calls >= 3")) == "mine\n"
        wait_until(lambda: notebook("0") and any("record m" in text for _, text in texts), "it is printed")
        notebook("%wamp unsubscribe")
    assert {parent for parent, text in texts if "record" in text} == {cell}


def test_a_failing_callback_is_shown_in_its_cell_and_counted(notebook):
    with heard(notebook) as texts:
        notebook("def bad(oid, values): 1 / 0")
        cell = notebook(f"w = %wamp subscribe bad\n{MSG_ID}").strip("'")
        notebook(UNTIL.format(condition="failures"))
        assert "failed, last with ZeroDivisionError" in notebook("%wamp status")
        shown = lambda: [parent for parent, text in texts if "bad for machine failed" in text]  # noqa: E731
        wait_until(lambda: notebook("0") and shown(), "it is shown")
        assert shown() == [cell]
    assert "1 subscription ended" in notebook("%wamp unsubscribe machine bad")
    assert notebook.fails("%wamp unsubscribe machine bad").ename == "UsageError"


def test_under_the_old_name_a_callback_gets_one_argument(notebook):
    notebook("got = []\ndef on_message(message): got.append(message)\ndef two(oid, values): got.append(values)")
    notebook("%juno subscribe on_message")
    notebook(UNTIL.format(condition="calls"))
    shown = notebook("%wamp status\nprint(got[0][1], len(got[0]), len(got[0][0]))")
    assert shown.startswith("['m', 'm', 'm', 'm', 'm'] 2 24")
    assert "failed" not in notebook("%wamp status")
    notebook("%wamp unsubscribe")
    notebook("got.clear()\n%wamp subscribe two")
    notebook(UNTIL.format(condition="calls"))
    assert notebook("print(got[0])").startswith("['m', 'm', 'm', 'm', 'm']")
    notebook("%wamp unsubscribe")


# --- the notebook's own kernel -----------------------------------------------------------------


def states(client: Client, before: set[str]) -> list[str]:
    """Return the states of the kernels that came since."""
    return [kernel.state for kernel in client.kernels() if kernel.kernel_id not in before]


def test_ones_own_kernel_is_not_chosen_and_runs_no_cell_of_its_own(notebook, demo, client):
    file = notebook.client.km.connection_file
    before = {kernel.kernel_id for kernel in client.kernels()}
    bridge = subprocess.Popen([sys.executable, "-m", "timbr_wamp", "bridge", file, "--name", "me"])
    try:
        wait_until(lambda: "idle" in states(client, before), "the notebook's kernel is on the router", 30)
        mine = next(kernel.kernel_id for kernel in client.kernels() if kernel.kernel_id not in before)
        notebook("%wamp disconnect")
        assert demo.id in notebook("%juno connect")  # of two kernels the other one
        assert "me" in notebook("%wamp select me")
        assert notebook.fails("%%wamp\n1 + 1").ename == "OwnKernel"
        own = f"import timbr_wamp\nwith timbr_wamp.connect() as c: c.kernel({mine!r}).execute('1')"
        assert notebook.fails(own).ename == "OwnKernel"
        assert client.kernel(mine).run("1 + 1").status == "ok"  # anybody else may
        made = "import timbr_wamp\nown = timbr_wamp.Machine(1, name='own')\nkernels = %wamp list\n"
        assert notebook(f"{made}[m.name for k in kernels for m in k.machines if k.kernel_id == {mine!r}]") == "['own']"
        assert notebook("%wamp put 1\n").startswith("me/own: ")
        notebook("own.close()")
    finally:
        bridge.terminate()
        bridge.wait(10)


# --- remote cells ------------------------------------------------------------------------------


def test_a_remote_cells_output_is_this_cells_output(notebook, demo):
    notebook(
        "%%wamp\n"
        "import os, sys\n"
        "from IPython.display import display, clear_output\n"
        "print('gone'); clear_output()\n"
        "print('to stdout'); print('to stderr', file=sys.stderr); sys.stdout.flush()\n"
        "handle = display('first', display_id=True); handle.update('second')\n"
        "os.getpid()"
    )
    assert notebook.text().count("to stdout") == notebook.text().count("to stderr") == 1
    assert "gone" not in notebook.text()
    assert {"stream", "display_data", "execute_result"} == set(notebook.kinds())
    by_kind = {output["output_type"]: output for output in notebook.cell.outputs}
    assert by_kind["display_data"]["data"]["text/plain"] == "'second'"
    assert by_kind["execute_result"]["data"]["text/plain"] == str(demo.info().pid)
    assert by_kind["execute_result"]["execution_count"] == notebook.cell.execution_count


def test_earlier_local_output_stays_before_remote_output(notebook):
    assert notebook("print('here')\n%wamp execute print('there')\nprint('here again')").split() == [
        "here",
        "there",
        "here",
        "again",
    ]


def test_a_remote_error_is_an_error_of_that_name_with_the_remote_traceback(notebook):
    error = notebook.fails("%%wamp\nprint('before')\ndef divide(): return 1 / 0\ndivide()")
    assert (error.ename, error.evalue) == ("ZeroDivisionError", "division by zero")
    assert "before" in notebook.text()
    traceback = "".join(notebook.cell.outputs[-1]["traceback"])
    assert "divide" in traceback
    assert "timbr_wamp/magic" not in traceback


@contextmanager
def meanwhile(action: Callable[[], None]) -> Iterator[None]:
    """Do something in a thread while the body runs; what it raises is raised."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)
    assert not errors, errors


def test_interrupting_the_local_cell_interrupts_the_remote_one(notebook):
    pid = int(notebook("import os; os.getpid()"))
    notebook("pass")
    last = notebook.cell

    def interrupt() -> None:
        wait_until(lambda: notebook.cell is not last and "ready" in notebook.text(), "the remote cell runs")
        os.kill(pid, signal.SIGINT)

    with meanwhile(interrupt):
        error = notebook.fails(
            "%%wamp\nimport threading\nprint('ready', flush=True)\n"
            "try:\n    threading.Event().wait()\nfinally:\n    print('finally')"
        )
    assert error.ename == "KeyboardInterrupt"
    assert "finally" in notebook.text()
    assert notebook("%wamp execute 6 * 7") == "42"


#: Ends at the second interrupt.
STUBBORN = """%%wamp
import threading
ignored = 0
print("ready", flush=True)
while ignored < 2:
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        ignored += 1
        print("ignored", flush=True)
"""


def test_a_second_interrupt_stops_waiting(notebook, demo):
    pid = int(notebook("import os; os.getpid()"))
    notebook("pass")
    last = notebook.cell

    def interrupt_twice() -> None:
        wait_until(lambda: notebook.cell is not last and "ready" in notebook.text(), "the remote cell runs")
        os.kill(pid, signal.SIGINT)
        wait_until(lambda: "ignored" in notebook.text(), "the first interrupt arrived")
        os.kill(pid, signal.SIGINT)

    with meanwhile(interrupt_twice):
        error = notebook.fails(STUBBORN)
    assert error.ename == "KeyboardInterrupt"
    assert "may still be running" in notebook.cell.outputs[-1]["traceback"][0]
    assert "interrupted demo" in notebook("%wamp interrupt")
    wait_until(lambda: demo.info().state == "idle", "it ended")


def test_a_restarted_kernel_keeps_its_id_and_stays_selected(notebook, settings, client):
    kernel_id = new_kernel_id("lab")
    with on_router(settings, kernel_id, "again"):  # not the others' one: they find no new process left behind
        wait_until(lambda: "idle" in [k.state for k in client.kernels() if k.kernel_id == kernel_id], "it is there", 30)
        notebook("%wamp select again")
        before = client.kernel(kernel_id).info().pid
        assert notebook("%wamp restart").startswith(f"restarted again ({kernel_id})")
        pid = int(notebook("%wamp execute import os; os.getpid()"))
        assert pid == client.kernel(kernel_id).info().pid != before


def test_tab_knows_kernels_and_slots(notebook, demo):
    demo.machine().set(1, source="lambda x: x", name="tidy")
    notebook(
        "from IPython.core.completer import provisionalcompleter\n"
        "def offered(text):\n"
        "    with provisionalcompleter():\n"
        "        return [c.text for c in get_ipython().Completer.completions(text, len(text))]"
    )
    assert notebook("offered('%wamp select de')") == "['demo']"
    assert notebook("offered('%wamp delete ti')") == "['tidy']"
    assert notebook("offered('%wamp policy ti')") == "['tidy']"
    assert notebook("offered('%wamp policy tidy dr')") == "['drop']"
    assert notebook("offered('%wamp handler Retry')") == "['RetryHandler']"
    notebook("%wamp delete tidy")


# --- coming and going --------------------------------------------------------------------------


def test_unloading_takes_away_magics_callbacks_and_client(kernel_of_notebook):
    notebook = kernel_of_notebook
    notebook("%load_ext timbr_wamp")
    notebook("%wamp connect")
    notebook("from timbr_wamp.magic.extension import _loaded; client = _loaded[get_ipython()].state.client")
    notebook("%load_ext timbr_wamp")
    notebook("%reload_ext timbr_wamp")
    assert notebook("client.connected") == "False"
    notebook("%unload_ext timbr_wamp")
    assert notebook.fails("%wamp status").ename == "UsageError"
    assert notebook.fails("%juno status").ename == "UsageError"


def test_a_terminal_ipython_shows_remote_output_too(demo, tmp_path):
    code = "%load_ext timbr_wamp\n%wamp execute print('there'); 6 * 7\n"
    (tmp_path / "script.ipy").write_text(code)
    done = subprocess.run(
        [sys.executable, "-m", "IPython", "--colors=nocolor", "script.ipy"],
        cwd=tmp_path, env={**os.environ, "IPYTHONDIR": str(tmp_path)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "there" in done.stdout
    assert "42" in done.stdout
    assert (done.returncode, done.stderr) == (0, "")
