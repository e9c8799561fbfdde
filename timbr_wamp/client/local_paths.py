"""Paths that a caller gives for a host on the same computer."""

from __future__ import annotations

import os
from pathlib import Path

from timbr_wamp.errors import KernelStartFailed
from timbr_wamp.settings import expanded, working_folder


def local_paths(startup: str | None, cwd: str | None) -> tuple[str | None, str | None]:
    """Return startup file and working folder as absolute paths, because the host has another working folder.

    They are the caller's: relative to the caller's working folder. A startup file is looked for in ``cwd`` next.

    Raises:
        KernelStartFailed: there is no such file or folder.
    """
    here = working_folder()
    folder = None if cwd is None else Path(os.path.abspath(here / expanded(cwd)))
    if folder is not None and not folder.is_dir():
        raise KernelStartFailed(f"no such folder: {folder}")
    if startup is None:
        return None, None if folder is None else str(folder)
    tried = [base / expanded(startup) for base in (here, folder) if base is not None]
    found = next((path for path in tried if path.is_file()), None)
    if found is None:
        raise KernelStartFailed(f"no such startup file: {os.path.abspath(tried[0])}")
    return os.path.abspath(found), None if folder is None else str(folder)


__all__ = ["local_paths"]
