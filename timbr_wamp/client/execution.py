"""`Execution`: what running code on a kernel gave: the reply, what it printed, displayed and returned."""

from __future__ import annotations

from typing import Any

import msgspec

from timbr_wamp.contract import ExecuteReply, IopubMessage
from timbr_wamp.errors import class_and_text
from timbr_wamp.faces.preview import never_raises, preview
from timbr_wamp.tables import collapsible, html_text, terminal_text, without_styles

#: Characters of output that are kept, of all messages together; what comes later is counted.
OUTPUT_LIMIT = 4_000_000
#: Characters of a text in the ``repr``, and in a notebook.
REPR_LIMIT, HTML_LIMIT = 60, 20_000

_PRE = "margin:.3em 0;color:inherit;background:transparent"
_KEPT = frozenset({"stream", "display_data", "update_display_data", "execute_result", "clear_output"})


class Execution(ExecuteReply, kw_only=True):
    """The reply of a kernel to code, with the output that the code made.

    ``print`` shows the output; the ``repr`` is one line.
    """

    #: Output messages in order: ``stream`` (joined), ``display_data`` and ``execute_result``.
    outputs: list[IopubMessage] = msgspec.field(default_factory=list)
    #: Characters of output beyond `OUTPUT_LIMIT`, which were left out.
    omitted: int = 0

    @property
    def ok(self) -> bool:
        """Whether the code ran to its end."""
        return self.status == "ok"

    @property
    def stdout(self) -> str:
        """What the code wrote to stdout."""
        return self._stream("stdout")

    @property
    def stderr(self) -> str:
        """What the code wrote to stderr."""
        return self._stream("stderr")

    @property
    def data(self) -> dict[str, Any]:
        """The value of the code's last expression, by MIME type (``"text/plain"`` …); empty if it had none."""
        found = [output.content.get("data", {}) for output in self.outputs if output.msg_type == "execute_result"]
        return dict(found[-1]) if found else {}

    @property
    def result(self) -> str | None:
        """The ``repr`` of the code's last expression; None if it had no value."""
        text = self.data.get("text/plain")
        return text if isinstance(text, str) else None

    @property
    def displays(self) -> list[dict[str, Any]]:
        """What the code displayed, each by MIME type."""
        return [dict(one.content.get("data", {})) for one in self.outputs if one.msg_type == "display_data"]

    @property
    def error(self) -> str | None:
        """Class and text of the exception that ended the code; None if there was none."""
        if self.status == "ok":
            return None
        if self.status == "aborted":
            return "aborted: an earlier cell failed, or the kernel restarts"
        return class_and_text(self.ename or "Error", self.evalue or "")

    def _stream(self, name: str) -> str:
        texts = (output.content for output in self.outputs if output.msg_type == "stream")
        return "".join(str(content.get("text", "")) for content in texts if content.get("name") == name)

    @never_raises()
    def __repr__(self) -> str:
        parts = [self.status if self.error is None else terminal_text(_one_line(self.error))]
        for name, text in (("stdout", self.stdout), ("stderr", self.stderr)):
            parts += [f"{name} {preview(text, REPR_LIMIT)}"] if text else []
        parts += [f"{len(self.displays)} displayed"] if self.displays else []
        parts += [f"result {terminal_text(_one_line(self.result))}"] if self.result is not None else []
        parts += [f"{self.omitted:,} characters left out"] if self.omitted else []
        return f"<execution: {', '.join(parts)}>"

    @never_raises()
    def __str__(self) -> str:
        texts = []
        for output in self.outputs:
            text = _text_of(output)
            texts.append(text if text.endswith("\n") else f"{text}\n")
        if self.error is not None:
            texts.append("\n".join(self.traceback) or self.error)
        if self.omitted:
            texts.append(f"({self.omitted:,} characters left out)")
        return terminal_text(without_styles("".join(texts))).rstrip("\n")

    @never_raises(html=True)
    def _repr_html_(self) -> str:
        parts = []
        for output in self.outputs:
            colour = "#b35900" if output.content.get("name") == "stderr" else "inherit"
            style = _PRE.replace("color:inherit", f"color:{colour}")
            text = html_text(without_styles(_text_of(output)).rstrip("\n"), HTML_LIMIT, lines=True)
            parts.append(f'<pre style="{style}">{text}</pre>')
        if self.error is not None:
            parts.append(collapsible(self.error, without_styles("\n".join(self.traceback)) or self.error))
        if self.omitted:
            parts.append(f"<div>{self.omitted:,} characters left out</div>")
        return "".join(parts) or f"<div>{html_text(repr(self))}</div>"


def _one_line(text: str) -> str:
    """Return the beginning of a text as one line."""
    line = " ".join(text.split())
    return line if len(line) <= REPR_LIMIT else line[: REPR_LIMIT - 1] + "…"


def _text_of(output: IopubMessage) -> str:
    if output.msg_type == "stream":
        return str(output.content.get("text", ""))
    data = output.content.get("data", {})
    return str(data.get("text/plain", f"({', '.join(data)})"))


class OutputCollector:
    """Collects the output of one execution as a notebook would keep it. One thread at a time."""

    def __init__(self, limit: int = OUTPUT_LIMIT) -> None:
        self._left = limit
        self._omitted = 0
        #: Messages, or for a stream the message and its texts.
        self._outputs: list[tuple[IopubMessage, list[str]]] = []
        #: ``clear_output(wait=True)`` was called: the next output replaces what there is.
        self._clear_next = False

    def add(self, message: IopubMessage) -> None:
        """Take a message. Kinds that are no output are ignored."""
        if message.msg_type not in _KEPT:
            return
        if message.msg_type == "clear_output":
            self._clear_next = bool(message.content.get("wait"))
            if not self._clear_next:
                self._outputs.clear()
            return
        if self._clear_next:
            self._outputs.clear()
            self._clear_next = False
        self._take(message)

    def _take(self, message: IopubMessage) -> None:
        size = _size(message)
        if size > self._left:
            self._omitted += size
            return
        self._left -= size
        if message.msg_type == "stream":
            self._write(message)
        elif message.msg_type == "update_display_data":
            self._update(message)
        else:
            self._outputs.append((message, []))

    def _write(self, message: IopubMessage) -> None:
        name, text = message.content.get("name"), str(message.content.get("text", ""))
        last = self._outputs[-1] if self._outputs else None
        if last is not None and last[0].msg_type == "stream" and last[0].content.get("name") == name:
            last[1].append(text)
        else:
            self._outputs.append((message, [text]))

    def _update(self, message: IopubMessage) -> None:
        """Replace the display that the message updates."""
        wanted = _display_id(message)
        for number, (shown, _) in enumerate(self._outputs):
            if wanted is not None and _display_id(shown) == wanted:
                self._outputs[number] = (msgspec.structs.replace(message, msg_type=shown.msg_type), [])

    def execution(self, reply: ExecuteReply) -> Execution:
        """Return the reply with what was collected."""
        outputs = [
            msgspec.structs.replace(message, content={**message.content, "text": "".join(texts)}) if texts else message
            for message, texts in self._outputs
        ]
        return Execution(**msgspec.structs.asdict(reply), outputs=outputs, omitted=self._omitted)


def _display_id(message: IopubMessage) -> object:
    transient = message.content.get("transient")
    return transient.get("display_id") if isinstance(transient, dict) else None


def _size(message: IopubMessage) -> int:
    """Return the approximate number of characters of a message."""
    if message.msg_type == "stream":
        return len(str(message.content.get("text", "")))
    data = message.content.get("data", {})
    return sum(len(value) if isinstance(value, str) else 1_000 for value in data.values())


__all__ = ["Execution", "OutputCollector"]
