"""Show errors in a cell as one message, without timbr_wamp's own stack frames."""

from __future__ import annotations

import re
from functools import partial
from typing import TypeVar

from timbr_wamp.contract import ExecuteReply
from timbr_wamp.errors import class_and_text, described
from timbr_wamp.tables import terminal_text


class RemoteCellError(Exception):
    """A cell raised an error on the remote kernel.

    The exception that is raised is of a subclass with the name of the remote error's class, for programs
    that read the name (nbclient), and has the remote traceback. It stops "Run All".
    """

    def __init__(self, evalue: str, lines: list[str]) -> None:
        super().__init__(evalue, lines)
        self.evalue, self.lines = evalue, [terminal_text(line, styles=True) for line in lines]

    def __str__(self) -> str:
        return self.evalue

    def _render_traceback_(self) -> list[str]:
        return self.lines


def cell_error(reply: ExecuteReply) -> RemoteCellError:
    """Return the exception for a reply that is not ``ok``."""
    if reply.status == "aborted":
        name, value = (
            "Aborted",
            "the kernel did not run the cell, because an earlier one failed or it restarts",
        )
    else:
        name, value = reply.ename or "Error", reply.evalue or ""
    kind = type(name, (RemoteCellError,), {"__module__": __name__})
    error: RemoteCellError = kind(value, list(reply.traceback) or [class_and_text(name, value)])
    return error


#: File names in a traceback, and files of timbr_wamp and the standard library. A traceback with no other files is
#: not shown.
_FILE = re.compile(r'^ *File "([^"]+)", line \d+', re.MULTILINE)
_INTERNAL = re.compile(
    r"[/\\]timbr_wamp[/\\](client|components|contract|kernel|machine|router)[/\\]"
    r"|[/\\]lib[/\\]python3[^/\\]*[/\\](?!site-packages)"
)

E = TypeVar("E", bound=BaseException)


def shortened(error: E) -> E:
    """Return ``error``, changed so that IPython shows one line, and the remote traceback if it has users' code.

    Class and arguments are unchanged, so that a notebook can catch it.
    """
    error._render_traceback_ = partial(_rendered, error)  # type: ignore[attr-defined]  # called by IPython
    return error


def _rendered(error: BaseException) -> list[str]:
    lines = [described(error)]
    remote = getattr(error, "remote_traceback", None) or ""
    if any(not _INTERNAL.search(file) for file in _FILE.findall(remote)):
        lines += ["", "remote traceback:", *remote.rstrip().splitlines()]
    return list(map(terminal_text, lines))
