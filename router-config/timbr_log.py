"""The size of the router's log. Standard library only."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

LOG_FILE = "router.log"
#: Size at which the log is moved to `OLDER`, whose former content is lost.
MAX_BYTES = 4 * 1024 * 1024
OLDER = ".1"


def keep_small(path: Path) -> bool:
    """Move a log that is too large aside; return whether it was.

    Crossbar's processes write to the file that they were started with, at its end. So the content is
    copied and the file is cut. What they write in between is lost.
    """
    try:
        if os.stat(path).st_size < MAX_BYTES:
            return False
        older = path.with_name(path.name + OLDER)
        with (
            open(os.open(older, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target,
            open(path, "rb") as log,
        ):
            log.seek(-MAX_BYTES, os.SEEK_END)
            shutil.copyfileobj(log, target)
        os.truncate(path, 0)
    except FileNotFoundError:
        return False
    return True
