"""Run the kernel's startup file and make its failure visible.

IPython's own ``exec_files`` sends the traceback of a failing file to iopub before anybody has
subscribed, so it is lost. Here it is written to the kernel's log, and the bridge reads the error from
the shell's attribute `ERROR_ATTRIBUTE`.
"""

from __future__ import annotations

import traceback
from typing import Any

from timbr_wamp.errors import described

#: Section and option of the command-line argument ``--TimbrKernel.startup=FILE``.
SECTION, OPTION = "TimbrKernel", "startup"
#: Attribute of the shell with ``Class: text`` of the startup file's failure; None without a failure.
ERROR_ATTRIBUTE = "timbr_startup_error"


def _line_text(error: BaseException, path: str) -> str:
    """Return ``", line 3,"`` for the file's line that failed; empty if that is not known."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return f", line {error.lineno},"
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == path]
    return f", line {lines[-1]}," if lines else ""


def run_startup(shell: Any) -> None:
    """Run the startup file from the command line, if any, in the user's namespace."""
    setattr(shell, ERROR_ATTRIBUTE, None)
    path = str(shell.config.get(SECTION, {}).get(OPTION, ""))
    if not path:
        return
    shell.user_ns["__file__"] = path
    try:
        if path.endswith(".ipy"):
            shell.safe_execfile_ipy(path, shell_futures=True, raise_exceptions=True)
        else:
            shell.safe_execfile(path, shell.user_ns, shell_futures=True, raise_exceptions=True)
    except (Exception, SystemExit) as error:  # user code must not keep the kernel from starting
        setattr(shell, ERROR_ATTRIBUTE, f"startup file {path}{_line_text(error, path)} failed: {described(error)}")
        shell.parent.log.error("startup file %s failed", path, exc_info=True)
    finally:
        shell.user_ns.pop("__file__", None)
