"""Tokens and the access rules of the roles, without any network code.

The rules are read from ``access.json``, which `timbr_wamp.router` writes from the contract. Standard
library only, because this module runs in the router's environment, which does not contain ``timbr_wamp``.
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

#: Access classes that each role includes. For further rights of admin see `Access`.
CLASSES = {"viewer": {"read"}, "operator": {"read", "operate"}, "admin": {"read", "operate", "admin"}}

#: File with the SHA-256 of the content of the tokens file that the router uses.
APPLIED_FILE = "tokens-applied"

AUTHID = re.compile(r"[a-z0-9_]{1,32}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTS = r"[a-z0-9_]+(?:\.[a-z0-9_]+)*"
_KERNEL = re.compile(rf"io\.timbr\.kernel\.(?P<id>[a-z0-9_]{{1,32}}_[0-9a-f]{{12}})(?:\.(?P<rest>{_PARTS}))?")
#: A topic of the router itself.
_WAMP_TOPIC = re.compile(r"wamp(\.[a-z0-9_]+)+")
_OWNED = re.compile(rf"io\.timbr\.(?P<scope>host|stream)\.[a-z0-9_]{{1,32}}\.(?P<rest>{_PARTS})")
#: A URI that the router takes; it answers others itself.
_URI = re.compile(r"[^\s.#]+(?:\.[^\s.#]+)*")
#: A kernel's, host's or stream's URI, whether there can be one of that name or not.
_ANY = re.compile(r"io\.timbr\.(?P<scope>kernel|host|stream)\.[^.]+\.(?P<rest>.+)")

#: The router's own procedures that an administrator may call: reading only.
ADMIN_CALLS = re.compile(
    r"wamp\.session\.(count|list|get)"
    r"|wamp\.(registration|subscription)\.(match|lookup|list|get|count_callees|list_callees"
    r"|count_subscribers|list_subscribers)"
)

#: Their arguments by the end of the procedure's name: name, type, and whether it may be left out or None.
_ADMIN_ARGUMENTS: dict[str, tuple[tuple[str, type, bool], ...]] = {
    "session.count": (("filter_authroles", list, True),),
    "session.list": (("filter_authroles", list, True),),
    "list": (("session_id", int, True),),
    "lookup": (("uri", str, False), ("options", dict, True)),
    "match": (("uri", str, False),),
}
_ID = (("id", int, False),)
_TYPE_NAMES: dict[type, str] = {int: "an id", str: "a text", list: "a list of texts", dict: "a map"}


def problem_of_admin_call(uri: str, args: list[Any] | None, kwargs: dict[str, Any] | None) -> str | None:
    """Return what is wrong with the arguments of one of `ADMIN_CALLS`; None when nothing is.

    Crossbar.io does not check them: its own exception is all that the caller would get.

    >>> problem_of_admin_call("wamp.session.get", ["one"], None)
    'id is not an id'
    """
    kind, _, name = uri.removeprefix("wamp.").partition(".")
    expected = _ADMIN_ARGUMENTS.get(f"{kind}.{name}", _ADMIN_ARGUMENTS.get(name, _ID))
    given = list(args or [])
    if kwargs:
        return f"they are given by position, not by name: {', '.join(name for name, _, _ in expected)}"
    if not sum(not optional for *_, optional in expected) <= len(given) <= len(expected):
        return f"{len(given)} were given; it takes {', '.join(name for name, _, _ in expected)}"
    for (name, type_, optional), value in zip(expected, given, strict=False):
        if not (optional and value is None) and not _is_usable(type_, value):
            return f"{name} is not {_TYPE_NAMES[type_]}"
    return None


def _is_usable(type_: type, value: object) -> bool:
    if type_ is int:  # JavaScript sends ids as floating point numbers
        return type(value) is int or (isinstance(value, float) and value.is_integer())
    if type_ is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if isinstance(value, dict):
        return type_ is dict and value.get("match", "exact") in ("exact", "prefix", "wildcard")
    return isinstance(value, type_)


class Tokens:
    """The tokens file: role and SHA-256 of the secret by name. The secret has 256 random bits, so it needs no salt."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._tokens: dict[str, dict[str, Any]] = {}
        #: SHA-256 of the file's content that is used, and of that for which `confirm` was called.
        self._used = self._confirmed = ""
        #: Why the file could not be read, as a sentence; None when it was read.
        self.problem: str | None = None
        self.refresh()

    def refresh(self) -> list[str]:
        """Read the file if it changed; return the names whose tokens were revoked or changed.

        A missing file has no tokens. A file that is invalid or cannot be read changes nothing; see `problem`.
        """
        try:
            status = os.stat(self._path)
            seen = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if seen == self._seen:
                return []
            self._seen = seen
            content = self._path.read_bytes()
            tokens = _parsed_tokens(content)
        except FileNotFoundError:
            self._seen, content, tokens = None, b"", {}
        except (OSError, ValueError, RecursionError) as error:
            self.problem = f"the tokens file {self._path} cannot be used: {error}"
            return []
        self.problem = None
        before, self._tokens = self._tokens, tokens
        self._used = hashlib.sha256(content).hexdigest()
        return [name for name, token in before.items() if tokens.get(name) != token]

    def confirm(self) -> None:
        """Say in a file beside the tokens which content of theirs is used: who changed them may wait for it.

        Raises:
            OSError: it cannot be written.
        """
        if self._used == self._confirmed:
            return
        new = self._path.with_name(APPLIED_FILE + ".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            file.write(self._used)
        new.replace(self._path.with_name(APPLIED_FILE))
        self._confirmed = self._used

    def role(self, name: str) -> str | None:
        """Return the role of the token with that name; None if there is none."""
        token = self._tokens.get(name)
        return token["role"] if token else None

    def role_of(self, name: str | None, secret: object) -> str | None:
        """Return the role of the token with that name and secret; None if there is none."""
        token = self._tokens.get(name or "")
        if token is None or not isinstance(secret, str):
            return None
        digest = hashlib.sha256(secret.encode()).hexdigest()
        return token["role"] if hmac.compare_digest(digest, token["sha256"]) else None


def _parsed_tokens(content: bytes) -> dict[str, dict[str, Any]]:
    """Return the tokens by name.

    Raises:
        ValueError: the content is not a table of tokens; the error says what is wrong.
        RecursionError: it is nested too deeply.
    """
    table = json.loads(content)
    tokens = table.get("tokens") if isinstance(table, dict) else None
    if not isinstance(tokens, dict):
        raise ValueError('it has no map "tokens"')
    for name, token in tokens.items():
        if not AUTHID.fullmatch(name):
            raise ValueError(f"the name {name!r:.80} is not 1 to 32 of a-z, 0-9 and _")
        if not isinstance(token, dict) or token.get("role") not in ROLES:
            raise ValueError(f"the entry {name!r} has none of the roles {', '.join(ROLES)}")
        digest = token.get("sha256")
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise ValueError(f"the entry {name!r} has no SHA-256 hash of 64 hex digits")
    return tokens


def kernel_of(uri: str) -> str | None:
    """Return the kernel id in a URI; None if it belongs to no kernel."""
    found = _KERNEL.fullmatch(uri)
    return found["id"] if found else None


def is_hosts(uri: str) -> bool:
    """Return whether a URI is one of a host's own, not of its kernels."""
    found = _OWNED.fullmatch(uri)
    return found is not None and found["scope"] == "host"


def host_of(kernel_id: str) -> str:
    """Return the authid of a kernel's host."""
    return kernel_id[:-13]


def host_owns_kernel(authid: str, kernel_id: object) -> bool:
    """Return whether a kernel id belongs to the host ``authid``. ``lab`` does not own ``lab_2_…``."""
    return isinstance(kernel_id, str) and bool(re.fullmatch(rf"{re.escape(authid)}_[0-9a-f]{{12}}", kernel_id))


class Access:
    """Decides what a role may do, from the contract's access table. Pure."""

    def __init__(self, table: dict[str, Any]) -> None:
        self._table = table
        self._reserved = frozenset(table["reserved"])

    def allows(self, role: str, authid: str, action: str, uri: str, match: str) -> bool:
        """Return whether the role may perform ``action``: ``call``, ``register``, ``publish`` or ``subscribe``."""
        if role == "host":
            return match == "exact" and self._host_allows(authid, action, uri)
        if role not in CLASSES or action not in ("call", "subscribe"):
            return False
        if role == "admin" and self._admin_allows(action, uri, match):
            return True
        if match != "exact":
            return False
        return self._class_of("procedures" if action == "call" else "topics", uri) in CLASSES[role]

    def may_be_missing(self, role: str, uri: str) -> bool:
        """Return whether a procedure may be told to be missing, if nobody answers it: the role alone is not too low.

        The contract has none of that name, or the role may call it, of another kernel or host.
        """
        if role not in CLASSES or not uri.startswith("io.timbr.") or not _URI.fullmatch(uri):
            return False
        table = self._table
        found = _ANY.fullmatch(uri)
        if uri in table["node"]["procedures"] or found is None:
            access = table["node"]["procedures"].get(uri)
        elif found["scope"] == "kernel":
            access = self._class_in_kernel("procedures", found["rest"])
        else:
            access = table.get(found["scope"], {}).get("procedures", {}).get(found["rest"])
        return access is None or access in CLASSES[role]

    def _admin_allows(self, action: str, uri: str, match: str) -> bool:
        if action == "subscribe":
            return match in ("prefix", "wildcard") or bool(_WAMP_TOPIC.fullmatch(uri)) or _is_under_a_host(uri)
        return bool(ADMIN_CALLS.fullmatch(uri)) or _is_under_a_host(uri)

    def _host_allows(self, authid: str, action: str, uri: str) -> bool:
        if action in ("register", "publish"):
            return _is_own(authid, uri)
        if action == "call":
            return self._table["node"]["procedures"].get(uri) == "host"
        if uri in self._table["node"]["topics"]:
            return self._table["node"]["topics"][uri] in ("host", "read")
        return _is_own(authid, uri) and self._class_of("topics", uri) == "read"

    def _class_of(self, kind: str, uri: str) -> str | None:
        """Return the access class of a URI; None if the contract does not contain it."""
        table = self._table
        if uri in table["node"][kind]:
            return str(table["node"][kind][uri])
        owned = _OWNED.fullmatch(uri)
        if owned:
            return table.get(owned["scope"], {}).get(kind, {}).get(owned["rest"])
        kernel = _KERNEL.fullmatch(uri)
        if not kernel or not kernel["rest"]:
            return None
        return self._class_in_kernel(kind, kernel["rest"])

    def _class_in_kernel(self, kind: str, name: str) -> str | None:
        table = self._table
        first, *rest = name.split(".", 1)
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


def _is_under_a_host(uri: str) -> bool:
    """Return whether the URI is in the namespace of a kernel, host or stream, in the contract or not."""
    return bool(_KERNEL.fullmatch(uri) or _OWNED.fullmatch(uri))
