"""Tokens ``<name>.<secret>``: shown once, stored as hashes in a file (mode 0600) that the node component watches.

The secret has 256 random bits, so a plain SHA-256 hash is safe against guessing. The node component
reads the file with `timbr_access.Tokens` of ``router-config/``.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from timbr_wamp.errors import InvalidArgument, InvalidSetting, TokenExists, UnknownToken, not_one_of
from timbr_wamp.names import ROLES, checked_authid
from timbr_wamp.processes import locked
from timbr_wamp.router.folder import write_private
from timbr_wamp.runtime import private_folder

TOKENS_FILE = "tokens.json"
#: Written by the router: SHA-256 of the content of the tokens file that it uses.
APPLIED_FILE = "tokens-applied"
#: Interval for looking whether the router has read a change, which it does each quarter of a second.
APPLIED_STEP_S = 0.02
SECRET_BYTES = 32
LOCK_LIMIT_S = 10.0


class _Kept(msgspec.Struct):
    """A token in the file."""

    role: Literal["viewer", "operator", "admin", "host"]
    sha256: str
    #: UTC seconds.
    created_at: float = 0.0


class _Table(msgspec.Struct):
    """The file."""

    tokens: dict[str, _Kept]
    version: int = 1


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token without its secret."""

    name: str
    role: str
    #: UTC seconds.
    created_at: float


class TokenStore:
    """The tokens of one node folder. Any thread, any process.

    The router looks for changes each quarter of a second, and when somebody joins: a new token is known at once,
    and `wait_applied` waits until a revoked one opens nothing any more.
    """

    def __init__(self, node_dir: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._path = node_dir / TOKENS_FILE
        self._clock = clock

    def create(self, name: str, role: str) -> str:
        """Create a token and return it. The secret cannot be shown again.

        Raises:
            TokenExists: a token with that name exists.
            InvalidName: the name is not 1 to 32 characters of a-z, 0-9, ``_``.
            InvalidArgument: unknown role.
        """
        checked_authid(name)
        if role not in ROLES:
            raise InvalidArgument("role", not_one_of(role, ROLES))
        secret = secrets.token_urlsafe(SECRET_BYTES)
        with self._changing() as tokens:
            if name in tokens:
                raise TokenExists(name)
            tokens[name] = msgspec.convert(
                {"role": role, "sha256": _digest(secret), "created_at": self._clock()}, _Kept
            )
        return f"{name}.{secret}"

    def revoke(self, name: str) -> None:
        """Revoke a token; the router ends its wamp sessions. It does not wait for that, see `wait_applied`.

        Raises:
            UnknownToken: there is no token with that name.
        """
        with self._changing() as tokens:
            if tokens.pop(name, None) is None:
                raise UnknownToken(name, sorted(tokens))

    def wait_applied(self, timeout_s: float) -> bool:
        """Wait until a running router has applied the newest change; return False at the timeout.

        Then the sessions of revoked tokens are answered nothing any more.
        """
        deadline = time.monotonic() + timeout_s
        while not self._applied():
            if time.monotonic() >= deadline:
                return False
            time.sleep(APPLIED_STEP_S)
        return True

    def _applied(self) -> bool:
        try:
            applied = self._path.with_name(APPLIED_FILE).read_text(encoding="ascii")
            return applied == hashlib.sha256(self._path.read_bytes()).hexdigest()
        except (OSError, ValueError):
            return False

    def list(self) -> list[TokenInfo]:
        """Return the tokens, sorted by name."""
        tokens = self._read()
        return [TokenInfo(name, tokens[name].role, tokens[name].created_at) for name in sorted(tokens)]

    def valid(self, token: str, role: str) -> bool:
        """Return whether ``token`` is valid and has that role."""
        name, _, secret = token.partition(".")
        kept = self._read().get(name)
        return kept is not None and kept.role == role and kept.sha256 == _digest(secret)

    @contextmanager
    def _changing(self) -> Iterator[dict[str, _Kept]]:
        folder = private_folder(self._path.parent)
        with locked(folder / (TOKENS_FILE + ".lock"), LOCK_LIMIT_S):
            tokens = self._read()
            yield tokens
            write_private(self._path, msgspec.json.format(msgspec.json.encode(_Table(tokens)), indent=1))

    def _read(self) -> dict[str, _Kept]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Table).tokens
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise InvalidSetting("tokens", str(self._path), f"not readable ({error}); repair or remove it") from None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
