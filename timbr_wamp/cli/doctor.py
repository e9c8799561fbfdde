"""``timbr-wamp doctor``: check everything that timbr-wamp needs, and print what to do."""

from __future__ import annotations

import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click

from timbr_wamp.cli.base import connected, console, json_option, print_json, settings_from
from timbr_wamp.command_line import command_line
from timbr_wamp.errors import TimbrError, counted
from timbr_wamp.settings import Settings

Verdict = Literal["ok", "note", "problem"]
STYLES: dict[Verdict, str] = {"ok": "green", "note": "yellow", "problem": "bold red"}

#: Longest name of a socket of a machine or kernel in the runtime folder.
SOCKET_NAME_BYTES = 32
#: Size of the file by which a folder is checked: a block of a disk.
PROBE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    what: str
    verdict: Verdict
    text: str
    #: What to do; empty if nothing.
    todo: str = ""


@click.command()
@json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check everything that timbr-wamp needs, and print what to do about problems.

    The exit status is 1 if there is a problem.
    """
    settings = settings_from()
    findings = [finding for check in CHECKS for finding in check(settings)]
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        _print(findings)
    if any(finding.verdict == "problem" for finding in findings):
        ctx.exit(1)


def _print(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        todo = (f"\n→ {finding.todo}", "bold") if finding.todo else ""
        mark = Text(finding.verdict, style=STYLES[finding.verdict])
        table.add_row(mark, finding.what, Text.assemble(finding.text, todo))
    console().print(table)


def _python(settings: Settings) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("Python", "ok", f"{version} at {sys.executable}")


def _folders(settings: Settings) -> Iterator[Finding]:
    from timbr_wamp import runtime

    folder = settings.runtime_dir
    try:
        _try_to_write(runtime.private_folder(folder))
    except TimbrError as error:
        yield Finding("runtime folder", "problem", str(error), f"chmod 700 {folder}, or set TIMBR_WAMP_RUNTIME_DIR")
    except OSError as error:
        yield Finding("runtime folder", "problem", f"{folder}: {error.strerror}", "set TIMBR_WAMP_RUNTIME_DIR")
    else:
        yield Finding("runtime folder", "ok", f"{folder}, private")
        used = len(str(folder).encode()) + 1 + SOCKET_NAME_BYTES
        if used > runtime.SOCKET_PATH_LIMIT_BYTES:
            yield Finding(
                "socket paths", "note", f"{used} bytes, over {runtime.SOCKET_PATH_LIMIT_BYTES}: using folders in /tmp",
                "set TIMBR_WAMP_RUNTIME_DIR to a shorter path",
            )  # fmt: skip
        else:
            yield Finding("socket paths", "ok", f"{used} of {runtime.SOCKET_PATH_LIMIT_BYTES} bytes")
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        _try_to_write(settings.data_dir)
        yield Finding("data folder", "ok", str(settings.data_dir))
    except OSError as error:
        yield Finding("data folder", "problem", f"{settings.data_dir}: {error.strerror}", "set TIMBR_WAMP_DATA_DIR")


def _try_to_write(folder: Path) -> None:
    """Write a file of one block that has no name. A full disk takes an empty one."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(PROBE_BYTES))


def _crossbar(settings: Settings) -> Iterator[Finding]:
    from timbr_wamp import runtime
    from timbr_wamp.router import find_crossbar

    try:
        yield Finding("Crossbar.io", "ok", str(find_crossbar(settings)))
    except TimbrError as error:
        runs = runtime.local_node(settings.runtime_dir) is not None  # with another one, which only its starter knows
        yield Finding("Crossbar.io", "note" if runs else "problem", str(error), command_line("router", "install"))


def _page(settings: Settings) -> Iterator[Finding]:
    from timbr_wamp.dashboard import page_dir

    page = page_dir()
    if page is None:
        yield Finding("page", "note", "not built: the router serves a placeholder", "make page, in a clone")
    else:
        yield Finding("page", "ok", str(page))


def _node(settings: Settings) -> Iterator[Finding]:
    from timbr_wamp import runtime

    node = runtime.local_node(settings.runtime_dir)
    if node is None:
        yield Finding("router", "note", "none runs on this computer", command_line("up"))
        yield _port(settings)
    else:
        yield Finding("router", "ok", f"{node.url} (process {node.pid})")
        if (host := runtime.local_host(settings.runtime_dir, node.url)) is not None:
            yield Finding("host", "ok", f"{host.authid} (process {host.pid})")
        else:
            yield Finding(
                "host", "note", "none runs on this computer, so no kernel can be started", command_line("host")
            )
    if settings.url is not None or node is not None:
        yield _connection(settings)


def _port(settings: Settings) -> Finding:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.interface, settings.port))
        except OSError as error:
            text = f"{settings.interface}:{settings.port}: {error.strerror}"
            return Finding("port", "note", text, command_line("up", "--next-free-port"))
    return Finding("port", "ok", f"{settings.interface}:{settings.port} is free")


def _connection(settings: Settings) -> Finding:
    try:
        with connected(settings) as client:
            found = counted(len(client.kernels()), "kernel")
            return Finding("connection", "ok", f"{client.url} as {client.authid} ({client.role}), {found}")
    except TimbrError as error:
        return Finding("connection", "problem", str(error), "check TIMBR_WAMP_URL and TIMBR_WAMP_TOKEN")


CHECKS: tuple[Callable[[Settings], Iterator[Finding]], ...] = (_python, _folders, _crossbar, _page, _node)
