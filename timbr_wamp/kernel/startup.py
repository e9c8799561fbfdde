"""Run the kernel's startup file, and keep its failure where people look for it.

IPython's own ``exec_files`` sends a failing file's traceback to iopub before anybody can listen, and
it is gone. Here it goes to the kernel's log, and `ERROR_ATTRIBUTE` of the shell tells a bridge.
"""

from __future__ import annotations

from typing import Any

#: Given on the command line as ``--TimbrKernel.startup=FILE``.
SECTION, OPTION = "TimbrKernel", "startup"
#: ``Class: text`` of the startup file's failure, an attribute of the shell; None when all went well.
ERROR_ATTRIBUTE = "timbr_startup_error"


def run_startup(shell: Any) -> None:
    """Run the startup file that the command line names, if any, in the user's namespace."""
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
    except (Exception, SystemExit) as error:  # the user's code: the kernel must come up all the same
        setattr(shell, ERROR_ATTRIBUTE, f"startup file {path} failed: {type(error).__name__}: {error}")
        shell.parent.log.error("startup file %s failed", path, exc_info=True)
    finally:
        shell.user_ns.pop("__file__", None)
