"""Who may do what on the router: tokens, and the rules of the roles. No network here.

The rules come from ``access.json``, which `timbr_wamp.router` writes from the contract. Standard
library only: this runs in the router's own environment, which has no ``timbr_wamp``.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
from pathlib import Path
from typing import Any

ROLES = ("viewer", "operator", "admin", "host")

#: Classes of the table that a role may use; admin may use more, see `Access`.
CLASSES = {"viewer": {"read"}, "operator": {"read", "operate"}, "admin": {"read", "operate", "admin"}}

AUTHID = re.compile(r"[a-z0-9_]{1,32}")
_PARTS = r"[a-z0-9_]+(?:\.[a-z0-9_]+)*"
_KERNEL = re.compile(rf"io\.timbr\.kernel\.(?P<id>[a-z0-9_]{{1,32}}_[0-9a-f]{{12}})(?:\.(?P<rest>{_PARTS}))?")
_OWNED = re.compile(rf"io\.timbr\.(?:host|stream)\.[a-z0-9_]{{1,32}}\.(?P<rest>{_PARTS})")

#: What bridges need to publish a topic only while somebody listens.
HOST_CALLS = frozenset({"wamp.subscription.match", "wamp.subscription.lookup", "wamp.subscription.count_subscribers"})
HOST_META_TOPICS = re.compile(r"wamp\.subscription\.on_[a-z]+")

#: What an administrator may ask of the router itself: to look, not to change.
ADMIN_CALLS = re.compile(
    r"wamp\.session\.(count|list|get)"
    r"|wamp\.(registration|subscription)\.(match|lookup|list|get|count_callees|list_callees"
    r"|count_subscribers|list_subscribers)"
)


class Tokens:
    """The tokens file: name → role and SHA-256 of the secret (256 random bits, so no salt is needed)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._tokens: dict[str, dict[str, Any]] = {}
        self.refresh()

    def refresh(self) -> list[str]:
        """Read the file if it changed; return the names whose former token no longer counts.

        A missing file holds no tokens.

        Raises:
            ValueError: the file cannot be understood; the former tokens stay in force.
        """
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns)
            if seen == self._seen:
                return []
            self._seen = seen
            tokens = _parsed_tokens(self._path.read_bytes())
        except FileNotFoundError:
            self._seen, tokens = None, {}
        before, self._tokens = self._tokens, tokens
        return [name for name, token in before.items() if tokens.get(name) != token]

    def role(self, name: str) -> str | None:
        """Return the role of the token of that name, None if there is none."""
        token = self._tokens.get(name)
        return token["role"] if token else None

    def role_of(self, name: str | None, secret: object) -> str | None:
        """Return the role of the token; None if there is no such name or its secret is another."""
        token = self._tokens.get(name or "")
        if token is None or not isinstance(secret, str):
            return None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return token["role"] if hmac.compare_digest(digest, token["sha256"]) else None


def _parsed_tokens(content: bytes) -> dict[str, dict[str, Any]]:
    tokens = json.loads(content)["tokens"]
    for name, token in tokens.items():
        if not AUTHID.fullmatch(name) or token["role"] not in ROLES or not isinstance(token["sha256"], str):
            raise ValueError(f"tokens file: {name!r} is not a usable entry")
    return tokens


def kernel_of(uri: str) -> str | None:
    """Return the id of the kernel that a URI belongs to, None if to none."""
    found = _KERNEL.fullmatch(uri)
    return found["id"] if found else None


def host_owns_kernel(authid: str, kernel_id: object) -> bool:
    """Tell whether a kernel id is one of the host ``authid``: ``lab`` does not own ``lab_2_…``."""
    return isinstance(kernel_id, str) and bool(re.fullmatch(rf"{re.escape(authid)}_[0-9a-f]{{12}}", kernel_id))


class Access:
    """Decide from the contract's table. Pure: the same question has the same answer."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table
        self._reserved = frozenset(table["reserved"])

    def allows(self, role: str, authid: str, action: str, uri: str, match: str) -> bool:
        """Tell whether the role may ``call``, ``register``, ``publish`` or ``subscribe``."""
        if role == "host":
            return match == "exact" and self._host_allows(authid, action, uri)
        if role not in CLASSES or action not in ("call", "subscribe"):
            return False
        if role == "admin" and self._admin_allows(action, uri, match):
            return True
        if match != "exact":
            return False
        return self._class_of("procedures" if action == "call" else "topics", uri) in CLASSES[role]

    def _admin_allows(self, action: str, uri: str, match: str) -> bool:
        if action == "subscribe":
            return match in ("prefix", "wildcard") or uri.startswith("wamp.") or _is_ours(uri)
        return bool(ADMIN_CALLS.fullmatch(uri)) or _is_ours(uri)

    def _host_allows(self, authid: str, action: str, uri: str) -> bool:
        if action in ("register", "publish"):
            return _is_own(authid, uri)
        if action == "call":
            return uri in HOST_CALLS or self._table["node"]["procedures"].get(uri) == "host"
        return bool(HOST_META_TOPICS.fullmatch(uri)) or self._class_of("topics", uri) == "read"

    def _class_of(self, kind: str, uri: str) -> str | None:
        """Return the access class of a URI; None for what the contract does not know."""
        table = self._table
        if uri in table["node"][kind]:
            return str(table["node"][kind][uri])
        owned = _OWNED.fullmatch(uri)
        if owned:
            scope = "host" if uri.startswith("io.timbr.host.") else "stream"
            return table.get(scope, {}).get(kind, {}).get(owned["rest"])
        kernel = _KERNEL.fullmatch(uri)
        if not kernel or not kernel["rest"]:
            return None
        first, *rest = kernel["rest"].split(".", 1)
        if not rest and first in table["kernel"][kind]:
            return str(table["kernel"][kind][first])
        if first in self._reserved:
            return None
        return table["machine"][kind].get(rest[0] if rest else "")


def _is_own(authid: str, uri: str) -> bool:
    name = re.escape(authid)
    return bool(
        re.fullmatch(rf"io\.timbr\.kernel\.{name}_[0-9a-f]{{12}}(\.[a-z0-9_]+)*", uri)
        or re.fullmatch(rf"io\.timbr\.(host|stream)\.{name}(\.[a-z0-9_]+)+", uri)
    )


def _is_ours(uri: str) -> bool:
    """Tell whether the URI stands where hosts register, whether or not the table knows it."""
    return bool(_KERNEL.fullmatch(uri) or _OWNED.fullmatch(uri))
