"""How errors show in a cell: one clear message, not forty lines of our own frames."""

from __future__ import annotations

import re
from functools import partial
from typing import TypeVar

from timbr_wamp.contract import ExecuteReply
from timbr_wamp.errors import class_and_text


class RemoteCellError(Exception):
    """A cell ended with an error on the kernel that it ran on.

    What is raised is a subclass named like the error over there, so that ``%%wamp`` stops "Run
    All" and programs (nbclient) read the name; its traceback is the remote one.
    """

    def __init__(self, evalue: str, lines: list[str]) -> None:
        super().__init__(evalue, lines)
        self.evalue, self.lines = evalue, lines

    def __str__(self) -> str:
        return self.evalue

    def _render_traceback_(self) -> list[str]:
        return self.lines


def cell_error(reply: ExecuteReply) -> RemoteCellError:
    """Return the exception that stands for a reply that is not ``ok``."""
    if reply.status == "aborted":
        name, value = "Aborted", "the kernel did not run the cell: an earlier one failed, or it restarts"
    else:
        name, value = reply.ename or "Error", reply.evalue or ""
    kind = type(name, (RemoteCellError,), {"__module__": __name__})
    error: RemoteCellError = kind(value, list(reply.traceback) or [f"{name}: {value}"])
    return error


#: Files in a traceback's text, and those that only tell how we work: then the sentence says all.
_FILE = re.compile(r'^ *File "([^"]+)", line \d+', re.MULTILINE)
_OURS = re.compile(
    r"[/\\]timbr_wamp[/\\](client|components|contract|kernel|machine|router)[/\\]"
    r"|[/\\]lib[/\\]python3[^/\\]*[/\\](?!site-packages)"
)

E = TypeVar("E", bound=BaseException)


def made_short(error: E) -> E:
    """Return ``error``, which IPython then shows as its sentence, and its remote traceback if users' code is in it.

    Class and arguments stay, so that a notebook can catch it as any other program does.
    """
    error._render_traceback_ = partial(_rendered, error)  # type: ignore[attr-defined]  # IPython asks for this name
    return error


def _rendered(error: BaseException) -> list[str]:
    lines = [class_and_text(type(error).__name__, str(error))]
    remote = getattr(error, "remote_traceback", None) or ""
    if any(not _OURS.search(file) for file in _FILE.findall(remote)):
        lines += ["", "where it was raised:", *remote.rstrip().splitlines()]
    return lines
