"""What verbs give back: it can be computed with, reads well, and escapes what came from elsewhere."""

from __future__ import annotations

import atexit
import pickle

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from timbr_wamp.contract import ExecuteReply, KernelInfo, MachineBrief, Progress, Record, RecordMeta, Status
from timbr_wamp.errors import MachineFull
from timbr_wamp.faces.tables import RecordRows
from timbr_wamp.magic import views
from timbr_wamp.magic.failures import RemoteCellError, cell_error, shortened

EVIL = "<script>alert(1)</script>"


def a_record(values: list[object], *, text_bytes: int | None = None) -> Record:
    meta = RecordMeta(
        run="r", seq=7, attempt=1, revision=2, received_at=1.0, finished_at=2.0, errored=False, text_bytes=text_bytes
    )
    return Record.make("65f0c0ffee65f0c0ffee65f0", values, meta)


def test_records_stay_a_list_and_read_as_a_table():
    rows = RecordRows([a_record([EVIL, {"_exception": {"exc_class": "KeyError"}}])])
    assert rows[0].seq == 7
    assert "✗ KeyError" in repr(rows)
    assert EVIL not in rows._repr_html_()
    assert "&lt;script&gt;" in rows._repr_html_()


def test_a_record_too_large_to_send_shows_its_size():
    assert "(300,000 bytes)" in repr(RecordRows([a_record([], text_bytes=300_000)]))


def test_what_a_verb_has_changed_is_named_and_the_value_is_as_before():
    oid = views.Told("65f0c0ffee65f0c0ffee65f0", "demo/machine")
    assert (repr(oid), oid) == ("demo/machine: 65f0c0ffee65f0c0ffee65f0", "65f0c0ffee65f0c0ffee65f0")
    assert repr(pickle.loads(pickle.dumps(oid))) == repr(oid)
    oids = views.ToldOids([str(oid)], "demo/machine")
    assert (repr(oids), oids) == ("demo/machine: ['65f0c0ffee65f0c0ffee65f0']", [oid])
    progress = views.StructView(Progress(done=3, total=10, percentage=30.0), views.target_text("<demo>", "machine"))
    assert repr(progress).startswith("<demo>/machine:\n")
    assert progress._repr_html_().startswith("<div>&lt;demo&gt;/machine:</div>")


def test_an_empty_table_is_a_sentence():
    assert repr(RecordRows()) == "no records yet"
    assert "no kernels" in views.Kernels()._repr_html_()


def test_a_struct_shows_its_face_in_a_terminal_too_and_keeps_its_attributes():
    face = views.StructView(Progress(done=30, total=100, percentage=30.0))
    assert face.done == 30
    assert "30" in repr(face)
    assert not repr(face).startswith("Progress(")
    assert "progressbar" in face._repr_html_()
    with pytest.raises(AttributeError, match="nonsense"):
        _ = face.nonsense


def a_status_view(machine: Status | None, problem: str | None = None) -> views.StatusView:
    kernel = KernelInfo(
        kernel_id="lab_4f2a9c01d3e7", name="demo", host="lab", state="busy",
        machines=[MachineBrief(name="machine", state="running", run="r")],
    )  # fmt: skip
    nothing = views.Facts("callbacks", {"subscriptions": []})
    return views.StatusView(views.Facts("connected", {"url": "ws://x"}), kernel, machine, problem, nothing)


def test_a_status_view_has_the_machines_attributes():
    view = a_status_view(Status(name="machine", run="r", state="running", processed=31))
    assert (view.processed, view.machine.state, view.kernel.state) == (31, "running", "busy")
    assert "demo" in repr(view)
    assert "processed" in view._repr_html_()
    assert ">31<" in view._repr_html_()
    with pytest.raises(AttributeError, match="nonsense"):
        _ = view.nonsense


def test_a_status_view_without_machine_says_why():
    view = a_status_view(None, problem="no machine there")
    assert "no machine there" in repr(view)
    with pytest.raises(AttributeError, match="no machine"):
        _ = view.processed


def test_a_failed_remote_cell_raises_an_error_of_the_remote_name():
    error = cell_error(
        ExecuteReply(status="error", ename="ZeroDivisionError", evalue="division by zero", traceback=["line 1", "boom"])
    )
    assert isinstance(error, RemoteCellError)
    assert (type(error).__name__, str(error)) == ("ZeroDivisionError", "division by zero")
    assert error._render_traceback_() == ["line 1", "boom"]


def test_an_aborted_cell_says_so():
    assert "did not run the cell" in str(cell_error(ExecuteReply(status="aborted")))


OVER_THERE = """Traceback (most recent call last):
  File "/usr/lib/python3.11/asyncio/runners.py", line 44, in run
  File "/venv/lib/python3.11/site-packages/timbr_wamp/machine/slots/functions.py", line 82, in load
"""
USERS = '  File "<slot source 0123456789ab>", line 3, in clean\n'


@pytest.mark.parametrize(("remote", "lines"), [(None, 1), (OVER_THERE, 1), (OVER_THERE + USERS, 5)])
def test_our_errors_show_as_one_sentence_and_a_remote_traceback_that_users_have_a_part_in(capsys, remote, lines):
    error = MachineFull(8)
    error.remote_traceback = remote
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    try:
        raise shortened(error)
    except MachineFull:
        shell.showtraceback()
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("MachineFull: the queue is full (8 messages)")
    assert len(shown) == lines
    assert pickle.loads(pickle.dumps(error)).capacity == 8
    shell.atexit_operations()
    atexit.unregister(shell.atexit_operations)
