"""Where we are shown: in a notebook's kernel, on a terminal, or nowhere that anybody looks."""

from __future__ import annotations

import sys
from typing import Any, TextIO


def notebook_shell() -> Any | None:
    """Return IPython's shell when it belongs to a Jupyter kernel; None in terminals and plain Python.

    IPython is not imported for it: without IPython loaded there is no shell.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell if getattr(shell, "kernel", None) is not None else None


def is_terminal(file: TextIO) -> bool:
    """Tell whether people see what is written there, as it is written."""
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # something that only writes; a closed file
        return False
