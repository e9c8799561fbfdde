"""An execution keeps the output of code as a notebook would, bounded, with a short repr."""

from __future__ import annotations

from typing import Any

import pytest

from timbr_wamp.client.execution import Execution, OutputCollector
from timbr_wamp.contract import ExecuteReply, IopubMessage


def stream(text: str, name: str = "stdout") -> IopubMessage:
    return IopubMessage(msg_type="stream", content={"name": name, "text": text})


def shown(text: str, kind: str = "display_data", display_id: str | None = None) -> IopubMessage:
    content: dict[str, Any] = {"data": {"text/plain": text, "text/html": f"<b>{text}</b>"}, "metadata": {}}
    if display_id is not None:
        content["transient"] = {"display_id": display_id}
    return IopubMessage(msg_type=kind, content=content)


def cleared(*, wait: bool) -> IopubMessage:
    return IopubMessage(msg_type="clear_output", content={"wait": wait})


def execution(*messages: IopubMessage, limit: int = 1000, **reply: Any) -> Execution:
    collector = OutputCollector(limit)
    for message in messages:
        collector.add(message)
    return collector.execution(ExecuteReply(**{"status": "ok", "execution_count": 3, **reply}))


def test_it_has_what_was_printed_displayed_and_returned():
    done = execution(
        IopubMessage(msg_type="status", content={"execution_state": "busy"}),
        stream("a"), stream("b\n"), stream("oh\n", "stderr"), shown("picture"), stream("c\n"),
        shown("42", "execute_result"),
    )  # fmt: skip
    assert (done.ok, done.stdout, done.stderr) == (True, "ab\nc\n", "oh\n")
    assert (done.result, done.data["text/html"], done.error) == ("42", "<b>42</b>", None)
    assert [data["text/plain"] for data in done.displays] == ["picture"]
    assert done.execution_count == 3
    assert repr(done) == "<execution: ok, stdout 'ab\\nc\\n', stderr 'oh\\n', 1 displayed, result 42>"
    assert str(done) == "ab\noh\npicture\nc\n42"
    assert "<pre" in done._repr_html_()


def test_code_without_output_is_short():
    assert repr(execution()) == "<execution: ok>"
    assert (execution().result, execution().data, str(execution())) == (None, {}, "")


def test_an_error_is_a_text_and_its_traceback_is_printed_without_colours():
    failed = execution(
        stream("before\n"), status="error", ename="ValueError", evalue="no", traceback=["\x1b[31mline 1\x1b[0m", "no"]
    )
    assert (failed.ok, failed.error) == (False, "ValueError: no")
    assert repr(failed) == "<execution: ValueError: no, stdout 'before\\n'>"
    assert str(failed) == "before\nline 1\nno"
    assert "earlier cell" in str(execution(status="aborted").error)


def test_cleared_output_is_gone_and_an_updated_display_is_replaced():
    done = execution(
        stream("gone"), cleared(wait=False), stream("late"), cleared(wait=True), shown("1", display_id="d"),
        shown("other"), shown("2", "update_display_data", "d"), shown("3", "update_display_data", "nobody's"),
    )  # fmt: skip
    assert done.stdout == ""
    assert [data["text/plain"] for data in done.displays] == ["2", "other"]


def test_output_beyond_the_limit_is_left_out_and_counted():
    done = execution(*(stream("x" * 10) for _ in range(30)), limit=100)
    assert (len(done.stdout), done.omitted) == (100, 200)
    assert "200 characters left out" in repr(done)
    assert "200 characters left out" in str(done)


@pytest.mark.parametrize("show", [repr, str, Execution._repr_html_])
def test_what_the_other_process_sent_is_shown_as_text(show):
    bad = "\x1b]0;title\x07<script>"
    text = show(execution(stream(bad), shown(bad, "execute_result"), status="error", ename=bad, evalue=bad))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert show is not Execution._repr_html_ or "<script>" not in text
