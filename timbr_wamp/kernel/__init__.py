"""What runs inside a kernel that we start, as an IPython extension (``--ext=timbr_wamp.kernel``).

``exit`` and ``quit`` typed in an attached console detach that console: in plain ipykernel they stop
the kernel's own loop, and the kernel and its machine are gone 0.3 s later. The startup file runs here.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Make ``exit`` detach, and run the startup file. Does nothing in an IPython that is no kernel."""
    if not hasattr(shell, "keepkernel_on_exit"):
        return
    from timbr_wamp.kernel.detach import keep_kernel_on_exit
    from timbr_wamp.kernel.startup import run_startup

    keep_kernel_on_exit(shell)
    run_startup(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Put IPython's own ``exit`` and ``quit`` back."""
    from timbr_wamp.kernel.detach import end_kernel_on_exit

    if hasattr(shell, "keepkernel_on_exit"):
        end_kernel_on_exit(shell)
