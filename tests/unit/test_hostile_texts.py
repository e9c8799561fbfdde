"""Whatever text comes from another process is shown as text: in terminals, notebooks, SVG and DOT.

Every text of every struct of the wire is filled with what a terminal, rich, HTML or DOT would obey, from the
structs' own declarations, and shown on every surface.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import subprocess
import sys
import types
import typing
import unicodedata
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import msgspec
import pytest
from click.testing import CliRunner

from timbr_wamp.cli import base, kernels, tables
from timbr_wamp.client.kernel_list import KernelList
from timbr_wamp.contract import IopubMessage, structs
from timbr_wamp.contract.displayable import Displayable
from timbr_wamp.errors import InvalidName, RemoteError
from timbr_wamp.faces import cards
from timbr_wamp.faces import tables as faces
from timbr_wamp.faces.plot import Plot, dot_text
from timbr_wamp.magic import failures, views
from timbr_wamp.magic.remote_cell import TerminalOutput
from timbr_wamp.names import checked_name, kernel_name_from
from timbr_wamp.tables import StatusTable, terminal_text

#: Colour, title, clipboard, clear screen, C1 control sequence, reordering, markup, HTML, DOT.
HOSTILE = "[/x][red]\x1b[31m\x1b]0;t\x07\x1b]52;c;eA==\x1b\\\x1b[2J\x9b1m\u202e<script>&\"'];a->b{}\\"
#: Control characters that no surface may pass on; line ends and tabs are ours.
OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def hostile(hint: Any, depth: int = 0) -> Any:
    """Return a value of a type in which every text is `HOSTILE`."""
    origin, args = get_origin(hint), get_args(hint)
    if hint in (str, Any):
        return HOSTILE
    if hint is bytes:
        return HOSTILE.encode()
    if hint in (int, float, bool):
        return hint(1)
    if origin is Literal:
        return args[0]
    if origin in (typing.Union, types.UnionType):
        return hostile(next(arg for arg in args if arg is not type(None)), depth)
    if origin in (list, tuple):
        return origin(hostile(arg, depth + 1) for arg in (args if args[-1] is not Ellipsis else args[:1]))
    if origin is dict:
        return {hostile(args[0], depth + 1): hostile(args[1], depth + 1)}
    if hint is datetime:
        return datetime.now()
    hints = typing.get_type_hints(hint)
    return hint(**{name: hostile(hints[name], depth + 1) for name in hint.__struct_fields__})


STRUCTS = [
    kind
    for kind in vars(structs).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind not in (msgspec.Struct, Displayable)
]


def on_console(*renderables: Any) -> str:
    """What `console()` writes, to a terminal with colours."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setenv("FORCE_COLOR", "1")
        patch.setenv("COLUMNS", "400")
        patch.setenv("TERM", "xterm")
        screen = base.console()
        for renderable in renderables:
            screen.print(renderable)
    return out.getvalue()


def check_harmless(text: str) -> None:
    found = OBEYED.search(re.sub("\x1b\\[[0-9;]*m", "", text.replace("\x1b[?25l", "")))
    assert found is None, text[max(0, found.start() - 40) : found.end() + 40]


def check_plain(text: str) -> None:
    assert OBEYED.search(text) is None, text


def check_inert(html: str) -> None:
    check_plain(html)
    assert "<script" not in html
    assert not re.search(r"<[^>]*\"[^>]*<", html.replace("&quot;", ""))


@pytest.mark.parametrize("kind", STRUCTS, ids=lambda kind: kind.__name__)
def test_every_struct_is_shown_as_text(kind: type) -> None:
    value = hostile(kind)
    if isinstance(value, Displayable):
        check_plain(str(value))
        check_inert(value._repr_html_())
    base_json = io.StringIO()
    with contextlib.redirect_stdout(base_json):
        base.print_json(value)
    check_plain(base_json.getvalue())
    json.loads(base_json.getvalue())


def command_tables() -> Iterator[Any]:
    status, slot = hostile(structs.Status), hostile(structs.SlotInfo)
    yield tables.status_view(status, [slot])
    yield tables.slots_view([msgspec.structs.replace(slot, identity=False)])
    yield tables.rich_table(KernelList([hostile(structs.KernelInfo)]).table())
    yield tables.rich_table(faces.ErrorGroups([hostile(structs.ErrorGroup)]).table())
    yield tables.rich_table(faces.ErrorRows([hostile(structs.ErrorRow)]).table())
    yield tables.rich_table(faces.Revisions([hostile(structs.RevisionInfo)]).table())
    yield tables.rich_table(StatusTable([HOSTILE], title=HOSTILE, empty=HOSTILE))
    yield HOSTILE


@pytest.mark.parametrize("renderable", list(command_tables()), ids=lambda one: type(one).__name__)
def test_every_table_of_the_commands_shows_texts_as_they_are(renderable: Any) -> None:
    shown = on_console(renderable)
    check_harmless(shown)
    assert "[/x]" in shown
    assert "[red]" in shown  # markup is no markup


def test_a_commands_error_and_notes_are_text() -> None:
    @click.group(cls=base.Commands)
    @click.option("--debug", is_flag=True)
    def group(debug: bool) -> None:
        """A group."""

    @group.command()
    def failing() -> None:
        base.note(HOSTILE)
        base.echo(HOSTILE)
        raise RemoteError(HOSTILE, HOSTILE)

    result = CliRunner().invoke(group, ["failing"], color=True)
    assert result.exit_code == 1
    check_plain(result.output)
    assert "[/x]" in result.stderr


def test_what_a_command_logs_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        base.set_up_logging("warning")
        logging.getLogger("timbr_wamp.test").warning("a host says %s", HOSTILE)
        said = capsys.readouterr().err
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert "a host says [/x]" in said
    check_plain(said)


def test_the_output_of_a_cell_keeps_its_colours_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"name": "stdout", "text": f"{HOSTILE}\r50%\n", "data": {"text/plain": HOSTILE}, "traceback": [HOSTILE]}
    shown = ""
    for kind in ("stream", "execute_result", "error"):
        kernels._print_output(IopubMessage(msg_type=kind, content=content))
        TerminalOutput()(IopubMessage(msg_type=kind, content=content))
        captured = capsys.readouterr()
        shown += captured.out + captured.err
    assert "\x1b]" not in shown
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown
    assert terminal_text("\x1b[1;31mred\x1b[0m\r", styles=True) == "\x1b[1;31mred\x1b[0m\r"
    assert terminal_text("\x1b[1;31mred") == "\\x1b[1;31mred"
    assert terminal_text("a\n\tb\n") == "a\n\tb\n"


def magic_views() -> Iterator[Any]:
    kernel = hostile(structs.KernelInfo)
    yield views.Kernels([kernel])
    yield views.kernel_facts(kernel)
    yield views.Facts(HOSTILE, {"text": HOSTILE})
    yield views.revision_facts(hostile(structs.RevisionInfo), HOSTILE)
    yield views.StatusView(
        views.Facts("c", {}), kernel, hostile(structs.Status), HOSTILE, views.Facts("f", {"subscriptions": [1]})
    )
    yield KernelList([kernel])
    for table in (faces.SlotInfos, faces.ErrorRows, faces.ErrorGroups, faces.Revisions, faces.Events):
        item = {"SlotInfos": structs.SlotInfo, "ErrorRows": structs.ErrorRow, "ErrorGroups": structs.ErrorGroup}.get(
            table.__name__, structs.RevisionInfo if table is faces.Revisions else structs.Event
        )
        yield table([hostile(item)])


@pytest.mark.parametrize("view", list(magic_views()), ids=lambda one: type(one).__name__)
def test_every_view_of_a_notebook_shows_texts_as_they_are(view: Any) -> None:
    check_plain(repr(view))
    check_inert(view._repr_html_())


def test_the_card_of_a_machine_shows_texts_as_they_are() -> None:
    arguments = hostile(structs.Status), [hostile(structs.SlotInfo)], [hostile(structs.ErrorRow)]
    for draw in (cards.machine_text, cards.machine_line):
        check_plain(draw(arguments[0]))
    check_inert(cards.machine_html(*arguments))


def test_an_error_in_a_cell_is_text() -> None:
    reply = structs.ExecuteReply(status="error", ename=HOSTILE, evalue=HOSTILE, traceback=[HOSTILE])
    for line in failures.cell_error(reply)._render_traceback_():
        check_harmless(line)
    error = RemoteError(HOSTILE, HOSTILE)
    error.remote_traceback = f'  File "/home/ada/job.py", line 1\n{HOSTILE}'
    for line in failures.shortened(error)._render_traceback_():  # type: ignore[attr-defined]
        check_plain(line)


def test_a_graph_is_drawn_from_its_nodes_and_each_id_is_one_word() -> None:
    graph = hostile(structs.Graph)
    plot = Plot(graph, find=lambda program: None)
    check_plain(str(plot))
    check_plain(plot.mermaid)
    assert "<script" not in plot.mermaid
    quoted = re.compile(r'"(?:[^"\\]|\\.)*"')
    outside = quoted.sub("", dot_text(graph))
    check_plain(dot_text(graph))
    assert set(outside) <= set("digraph machine {rankdir=LR;node [shape=box];label=->}\n ")


def test_the_svg_has_no_script(require_service: Callable[[str, Callable[[], object]], None]) -> None:
    require_service("Graphviz", lambda: subprocess.run(["dot", "-V"], check=True, capture_output=True))
    svg = Plot(hostile(structs.Graph)).svg()
    assert svg is not None
    assert "<script" not in svg


@pytest.mark.parametrize("name", [HOSTILE, "", " a", "a ", "x" * 65, "[bold]", "a\nb", "\u202eabc", "a\x00"])
def test_a_name_of_a_kernel_is_plain_and_short(name: str) -> None:
    with pytest.raises(InvalidName):
        checked_name(name)
    made_from = kernel_name_from(name)
    assert checked_name(made_from) == made_from
    assert all(unicodedata.category(one)[0] != "C" for one in made_from)


ROOT = Path(__file__).parents[2] / "timbr_wamp"


def test_the_commands_print_in_one_place() -> None:
    """So that nothing is printed past the functions that are tested here."""
    printing = re.compile(r"\bclick\.(echo|secho|style)\(|\bprint\(|sys\.std(out|err)\.write|\bConsole\(")
    found = [
        f"{path.name}: {line.strip()}"
        for path in sorted((ROOT / "cli").glob("*.py"))
        if path.name != "base.py"
        for line in path.read_text(encoding="utf-8").splitlines()
        if printing.search(line) and "console().print(" not in line and "screen.print(" not in line
    ]
    assert not found
