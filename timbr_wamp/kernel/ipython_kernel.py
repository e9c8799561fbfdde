"""`IPythonKernel`: the connection file and the user's namespace of the kernel of this process."""

from __future__ import annotations

import os
from typing import Any, cast


class IPythonKernel:
    """The `timbr_wamp.plugins.OwnKernel` of an IPython kernel. Any thread."""

    def __init__(self, shell: Any, connection_file: str) -> None:
        self._shell = shell
        self._connection_file = connection_file

    @classmethod
    def current(cls) -> IPythonKernel | None:
        """Return the kernel of this process; None without a kernel or without a connection file."""
        from ipykernel.kernelapp import IPKernelApp

        if not IPKernelApp.initialized():
            return None
        app = IPKernelApp.instance()
        shell = getattr(app, "shell", None)
        if shell is None or not app.connection_file:
            return None  # an in-process kernel, or one that is still starting
        return cls(shell, os.path.realpath(app.abs_connection_file))

    def connection_file(self) -> str:
        """Return the absolute path of the kernel's Jupyter connection file, links resolved."""
        return self._connection_file

    def namespace(self) -> dict[str, object]:
        """Return the user's namespace itself, not a copy."""
        return cast("dict[str, object]", self._shell.user_ns)
