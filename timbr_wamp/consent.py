"""Consent to what a project's settings may decide: where tokens go, which programs run, where a router listens.

A project is often somebody else's folder. What it names of `ASKED` is used only after the user consented, once for
each content: the user's configuration folder keeps a hash of the values by the file's path.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Settings that a project's file decides only with consent.
ASKED = (
    "url", "token", "streams_url", "interface", "tls_certificate", "tls_key", "runtime_dir", "data_dir", "router_env",
    "crossbar",
)  # fmt: skip
CONSENTS_FILE = "consents.json"


@dataclass(frozen=True, slots=True)
class Question:
    """What a project's file wants to decide."""

    path: Path
    values: Mapping[str, Any] = field(repr=False)

    def __str__(self) -> str:
        shown = [name if name == "token" else f"{name} = {str(value)!r}" for name, value in self.values.items()]
        return f"{self.path} sets {', '.join(shown)}"

    @property
    def _key(self) -> str:
        return str(self.path.absolute())

    @property
    def _hash(self) -> str:
        text = json.dumps({name: str(value) for name, value in self.values.items()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def is_answered(self, config_dir: Path | None) -> bool:
        """Return whether the user consented to exactly this."""
        return config_dir is not None and _consents(config_dir).get(self._key) == self._hash

    def consent(self, config_dir: Path) -> None:
        """Remember the user's consent.

        Raises:
            OSError: it cannot be written.
        """
        config_dir.mkdir(parents=True, exist_ok=True)
        content = json.dumps({**_consents(config_dir), self._key: self._hash}, indent=1)
        path = config_dir / CONSENTS_FILE
        new = path.with_suffix(f".{os.getpid()}.new")
        new.unlink(missing_ok=True)
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(content)
        new.replace(path)


def question_of(path: Path, values: Mapping[str, Any]) -> Question | None:
    """Return what a project's file asks consent for; None when it decides nothing of that."""
    asked = {name: values[name] for name in ASKED if name in values}
    return Question(path, asked) if asked else None


def is_own_file(path: Path) -> bool:
    """Return whether a file is this user's or the system's, and nobody else's to write; True when there is none."""
    if not hasattr(os, "getuid"):
        return True
    try:
        status = path.stat()
    except OSError:
        return True
    return status.st_uid in allowed_owners() and not status.st_mode & stat.S_IWOTH


def allowed_owners() -> tuple[int, ...]:
    """Return the ids of the users whose files are read: this one, and the system's."""
    return os.getuid(), 0


def _consents(config_dir: Path) -> dict[str, str]:
    path = config_dir / CONSENTS_FILE
    if not is_own_file(path):
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
