"""The IPython extension of kernels that timbr_wamp starts (``--ext=timbr_wamp.kernel``).

It makes ``exit`` and ``quit`` in an attached console detach the console, whereas in plain ipykernel
they end the kernel with its machine. It also runs the startup file.
"""

from __future__ import annotations

from typing import Any

__all__ = ["load_ipython_extension", "unload_ipython_extension"]


def load_ipython_extension(shell: Any) -> None:
    """Make ``exit`` detach and run the startup file. No effect in an IPython that is not a kernel."""
    if not hasattr(shell, "keepkernel_on_exit"):
        return
    from timbr_wamp.kernel.detach import keep_kernel_on_exit
    from timbr_wamp.kernel.startup import run_startup

    keep_kernel_on_exit(shell)
    run_startup(shell)


def unload_ipython_extension(shell: Any) -> None:
    """Restore IPython's own ``exit`` and ``quit``."""
    from timbr_wamp.kernel.detach import end_kernel_on_exit

    if hasattr(shell, "keepkernel_on_exit"):
        end_kernel_on_exit(shell)
