"""The page in the browser: where its built files are.

Its source is ``frontend/`` of a clone, built by `timbr_wamp.dashboard.build`; a wheel carries the
built files. The router serves them; nothing here does.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["page_dir"]

#: Where the built files are, below this package. Never committed.
STATIC = Path(__file__).parent / "static"


def page_dir(folder: Path = STATIC) -> Path | None:
    """Return the folder of the built page, with ``index.html`` in it; None when it is not built."""
    return folder if (folder / "index.html").is_file() else None
