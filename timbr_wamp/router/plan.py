"""The content of a node folder: Crossbar's configuration, the node component, its access table, local tokens.

``config.json`` of ``router-config/`` is a template: each text ``"${name}"`` is replaced by a value, and
its key is removed when the value is None.
"""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timbr_wamp.contract.exports import access_table
from timbr_wamp.errors import InvalidSetting
from timbr_wamp.router.folder import shipped, write_private
from timbr_wamp.router.tokens import TokenStore
from timbr_wamp.runtime import private_folder, socket_folder
from timbr_wamp.settings import Settings, expanded

logger = logging.getLogger(__name__)

#: Modules that run inside the router; they are copied into the node folder.
COMPONENT_FILES = (
    "timbr_access.py",
    "timbr_admission.py",
    "timbr_delivery.py",
    "timbr_interest.py",
    "timbr_log.py",
    "timbr_nesting.py",
    "timbr_node.py",
    "timbr_page.py",
    "timbr_presence.py",
    "timbr_replace.py",
    "timbr_retained.py",
    "timbr_transports.py",
)
SOCKET_NAME = "router.sock"
LOCAL_TOKENS_FILE = "local-tokens.json"
#: Name of the token that local commands use.
ADMIN_NAME = "admin"
LOOPBACK = ("127.0.0.1", "localhost")


@dataclass(frozen=True, slots=True)
class NodePlan:
    """The addresses and the configuration of a router before its start."""

    settings: Settings
    node_dir: Path
    port: int
    page_dir: Path | None
    socket_path: Path

    @classmethod
    def make(cls, settings: Settings, node_dir: Path, port: int, page_dir: Path | None) -> NodePlan:
        """Return the plan; create the socket's folder if necessary."""
        folder = socket_folder(settings.runtime_dir, len(SOCKET_NAME))
        return cls(settings, node_dir, port, page_dir, folder / SOCKET_NAME)

    @property
    def tls(self) -> bool:
        """Whether the port uses TLS."""
        return self.settings.tls_certificate is not None

    @property
    def host(self) -> str:
        """The address of the port for this computer."""
        interface = self.settings.interface
        return LOOPBACK[0] if interface in (*LOOPBACK, "0.0.0.0") else interface

    @property
    def url(self) -> str:
        """The websocket's URL."""
        return f"{'wss' if self.tls else 'ws'}://{self.host}:{self.port}/ws"

    @property
    def unix_url(self) -> str:
        """The unix socket's URL."""
        return f"rs+unix://{self.socket_path}"

    @property
    def page_url(self) -> str:
        """The page's URL, without a token."""
        return f"{self._origin(self.host)}/"

    def names(self) -> list[str]:
        """Return the names by which browsers may reach the page."""
        interface = self.settings.interface
        names = list(LOOPBACK)
        if interface == "0.0.0.0":
            names.append(socket.gethostname().lower())
        elif interface not in LOOPBACK:
            names.append(interface)
        return names

    def origins(self) -> list[str]:
        """Return the origins whose pages may open the websocket: those of the page itself."""
        return [self._origin(name) for name in self.names()]

    def _origin(self, name: str) -> str:
        return f"{'https' if self.tls else 'http'}://{name}:{self.port}"

    def write(self) -> None:
        """Write the node folder. Other files in it (tokens, keys, logs) are kept."""
        interface = self.settings.interface
        if interface not in LOOPBACK and not self.tls:
            logger.warning("the router listens on %s without TLS: tokens can be read on the network", interface)
        for name in COMPONENT_FILES:
            write_private(self.node_dir / name, shipped(name).read_bytes())
        write_private(self.node_dir / "access.json", json.dumps(access_table()).encode())
        template = json.loads(shipped("config.json").read_text(encoding="utf-8"))
        write_private(self.node_dir / "config.json", json.dumps(_filled(template, self._values()), indent=1).encode())
        self.socket_path.unlink(missing_ok=True)  # left by a killed router

    def _values(self) -> dict[str, Any]:
        settings = self.settings
        tls = None
        if self.tls:
            tls = {"certificate": _absolute(settings.tls_certificate), "key": _absolute(settings.tls_key)}
        return {
            "realm": settings.realm,
            "folder": str(self.node_dir),
            "interface": settings.interface,
            "port": self.port,
            "tls": tls,
            "page": str((self.page_dir or self._placeholder()).absolute()),
            "names": self.names(),
            "origins": self.origins(),
            "socket": str(self.socket_path),
        }

    def _placeholder(self) -> Path:
        """Return a folder with a page that says how to build the real one."""
        folder = private_folder(self.node_dir / "page")
        write_private(folder / "index.html", shipped("placeholder.html").read_bytes())
        return folder


def _absolute(path: Path | None) -> str | None:
    return None if path is None else str(expanded(path).absolute())


def _filled(template: Any, values: Mapping[str, Any]) -> Any:
    """Return the template with its ``"${name}"`` texts replaced."""
    if isinstance(template, dict):
        filled = {key: _filled(value, values) for key, value in template.items()}
        return {key: value for key, value in filled.items() if value is not None}
    if isinstance(template, list):
        return [_filled(value, values) for value in template]
    if isinstance(template, str) and template.startswith("${") and template.endswith("}"):
        return values[template[2:-1]]
    return template


def local_tokens(node_dir: Path, host: str) -> tuple[str, str]:
    """Return the local user's tokens for an administrator and for this host; create missing ones.

    The token store keeps hashes only, so these two tokens are kept beside it, in a file with mode 0600.
    A revoked one is created again with another secret.

    Raises:
        TokenExists: a token with the host's name was created by hand, so its secret is unknown.
    """
    if host == ADMIN_NAME:
        raise InvalidSetting("host", "settings", f"{ADMIN_NAME!r} is the name of the local administrator's token")
    path = node_dir / LOCAL_TOKENS_FILE
    store = TokenStore(node_dir)
    try:
        known: dict[str, str] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    kept: dict[str, str] = {}
    for name, role in ((ADMIN_NAME, "admin"), (host, "host")):
        token = known.get(name, "")
        kept[name] = token if store.valid(token, role) else store.create(name, role)
        if kept != known:
            write_private(path, json.dumps({**known, **kept}).encode())
    return kept[ADMIN_NAME], kept[host]
