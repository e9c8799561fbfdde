"""Files of the router: atomic writes of private files, and the files of ``router-config/``."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from timbr_wamp.runtime import replace_file

#: Folders of a clone whose files are included in a wheel (``setup.py``).
SHIPPED_FOLDERS = ("router-config", "locks")


def clone_folder() -> Path | None:
    """Return the root of the clone that contains this package; None for an installed wheel."""
    root = Path(__file__).parents[2]
    return root if (root / SHIPPED_FOLDERS[0]).is_dir() else None


def shipped(name: str) -> Traversable:
    """Return a file of `SHIPPED_FOLDERS`: from the clone, or the copy in an installed package."""
    clone = clone_folder()
    if clone is not None:
        for folder in SHIPPED_FOLDERS:
            if (clone / folder / name).is_file():
                return clone / folder / name
    return resources.files("timbr_wamp.router") / "config" / name


def write_private(path: Path, content: bytes) -> None:
    """Write a file atomically, with mode 0600."""
    replace_file(path, content, sync=True)


def tail(text: str, lines: int = 20) -> str:
    """Return the last ``lines`` lines that are not empty."""
    return "\n".join([line for line in text.splitlines() if line.strip()][-lines:])
