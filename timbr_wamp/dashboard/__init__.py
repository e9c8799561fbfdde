"""The dashboard page: the folder of its built files, which the router serves.

The source is ``frontend/`` of a clone, built by `timbr_wamp.dashboard.build`. A wheel contains the
built files.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["page_dir"]

#: Folder of the built files. They are not committed.
STATIC = Path(__file__).parent / "static"


def page_dir(folder: Path = STATIC) -> Path | None:
    """Return the folder of the built page, with ``index.html``; None when the page is not built."""
    return folder if (folder / "index.html").is_file() else None
