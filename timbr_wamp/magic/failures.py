"""Show errors in a cell: those of remote cells, others in brief, and the whole traceback on request."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from timbr_wamp.contract import ExecuteReply
from timbr_wamp.errors import brief_lines, class_and_text
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

    @property
    def remote_traceback(self) -> str:
        """The traceback in the other kernel."""
        return "\n".join(self.lines)

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


E = TypeVar("E", bound=BaseException)


def shortened(error: E) -> E:
    """Return ``error`` of a magic, changed so that IPython shows it as it shows a `TimbrError`: see `brief_lines`.

    Class and arguments are unchanged, so that a notebook can catch it.
    """
    error._render_traceback_ = partial(brief_lines, error, of_cells=True)  # type: ignore[attr-defined]  # called by IPython
    return error


def whole_traceback(shell: Any, error: BaseException) -> str:
    """Return all of a traceback as IPython shows it, with colours where the shell has them, and the remote one."""
    lines = shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__)
    remote = getattr(error, "remote_traceback", None) or ""
    if remote:
        lines = [*lines, "", "remote traceback:", terminal_text(remote.rstrip(), styles=True)]
    return str(shell.InteractiveTB.stb2text(lines))
