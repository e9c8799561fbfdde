"""Configuration: explicit arguments, then environment, then ``timbr.toml``, then the user's file.

One frozen `Settings`, read once by `load_settings` and handed on; nothing else reads the
environment. Names of the ancestors (``JUPYTER_WAMP_ROUTER`` …) still work, behind ours.
"""

from __future__ import annotations

import os
import socket
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import platformdirs

from timbr_wamp.errors import InvalidName, InvalidSetting
from timbr_wamp.names import DEFAULT_REALM, authid_from, checked_authid

APP = "timbr_wamp"
ENV_PREFIX = "TIMBR_WAMP_"
PROJECT_FILE = "timbr.toml"
#: Names a project: its folder, or its file. The second is the ancestor's name.
PROJECT_VARIABLES = (f"{ENV_PREFIX}PROJECT", "TIMBR_PROJECT")

#: Names that the ancestors (juno-magic, timbr-machine) read from the environment.
LEGACY_ENV = {
    "url": ("JUPYTER_WAMP_ROUTER",),
    "realm": ("JUPYTER_WAMP_REALM",),
    "token": ("JUNO_AUTH_TOKEN",),
    "host": ("TIMBR_HOST",),
    "shutdown_interval_s": ("SHUTDOWN_INTERVAL",),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """What can be configured. ``docs/reference/configuration.md`` lists the same names."""

    #: Router's websocket or unix URL: ``ws://…``, ``wss://…`` or ``rs+unix:///path``. None: the local node's.
    url: str | None = None
    realm: str = DEFAULT_REALM
    #: ``<name>.<secret>``. None: the local node's.
    token: str | None = field(default=None, repr=False)
    #: This computer's name as a host of kernels.
    host: str = field(default_factory=lambda: authid_from(socket.gethostname()))
    #: The router listens here; 127.0.0.1 unless you know better.
    interface: str = "127.0.0.1"
    port: int = 8080
    #: TLS: both or none.
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    #: Sockets and runtime files of living processes; a 0700 folder.
    runtime_dir: Path = field(default_factory=lambda: _default_runtime_dir())
    #: What stays: node folder, tokens, the router's environment.
    data_dir: Path = field(default_factory=lambda: Path(platformdirs.user_data_dir(APP)))
    #: The router's own virtual environment. None: under ``data_dir``.
    router_env: Path | None = None
    #: A crossbar executable to use as it is.
    crossbar: Path | None = None
    #: A bridge ends its kernel after so many idle seconds; None: never.
    shutdown_interval_s: float | None = None
    log_level: str = "warning"

    def __post_init__(self) -> None:
        checked_authid(self.host)
        if not 1 <= self.port <= 65535:
            raise InvalidSetting("port", "settings", f"{self.port} is not between 1 and 65535")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidSetting("tls_certificate, tls_key", "settings", "give both or none")


NAMES = tuple(f.name for f in fields(Settings))
_PATHS = frozenset({"runtime_dir", "data_dir", "router_env", "crossbar", "tls_certificate", "tls_key"})


def load_settings(
    *,
    environ: Mapping[str, str] | None = None,
    folder: Path | None = None,
    **explicit: object,
) -> Settings:
    """Return the settings; ``explicit`` values that are not None win over all else.

    Args:
        environ: the environment to read, `os.environ` when None.
        folder: where ``timbr.toml`` is looked for, or that file; None: see `project_file`.

    Raises:
        InvalidSetting: a value cannot be used; the error names it and where it came from.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    config_dir = Path(environ.get(ENV_PREFIX + "CONFIG_DIR") or platformdirs.user_config_dir(APP))
    for path in (config_dir / "config.toml", project_file(folder, environ)):
        values.update(settings_of_file(path))
    values.update(_from_environment(environ))
    for name, value in explicit.items():
        if name not in NAMES:
            raise InvalidSetting(name, "arguments", f"unknown; known are {', '.join(NAMES)}")
        if value is not None:
            values[name] = _converted(name, value, "arguments")
    return replace(Settings(), **values)


def project_file(project: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Return the project's file: ``project`` or ``timbr.toml`` in it, else what ``TIMBR_PROJECT`` names, else here.

    It need not be there.
    """
    environ = os.environ if environ is None else environ
    named = next((environ[name] for name in PROJECT_VARIABLES if environ.get(name)), None)
    path = project or (Path(named).expanduser() if named is not None else Path.cwd())
    return path if path.suffix == ".toml" and not path.is_dir() else path / PROJECT_FILE


def _default_runtime_dir() -> Path:
    """Return the user's runtime folder; without one (no login session) a folder in the home, never in /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid() if hasattr(os, 'getuid') else 0}"
    if os.access(base, os.W_OK):
        return Path(base) / APP
    return Path(platformdirs.user_data_dir(APP)) / "run"


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name in NAMES:
        for variable in (ENV_PREFIX + name.upper(), *LEGACY_ENV.get(name, ())):
            if environ.get(variable):
                values[name] = _converted(name, environ[variable], f"environment variable {variable}")
                break
    return values


def settings_of_file(path: Path) -> dict[str, Any]:
    """Return what the table ``[settings]`` of a file says; nothing when there is no file.

    Raises:
        InvalidSetting: it is no TOML, or has an unknown name or a value that cannot be used.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("settings", {})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSetting("(file)", str(path), f"not readable as TOML: {error}") from None
    if not isinstance(table, dict):
        raise InvalidSetting("settings", str(path), "is no table; write [settings]")
    unknown = sorted(set(table) - set(NAMES))
    if unknown:
        raise InvalidSetting(unknown[0], str(path), f"unknown; known are {', '.join(NAMES)}")
    return {name: _converted(name, value, str(path)) for name, value in table.items()}


def _converted(name: str, value: object, origin: str) -> object:
    try:
        if name in _PATHS:
            return Path(str(value)).expanduser()
        if name == "port":
            return int(str(value))
        if name == "shutdown_interval_s":
            return float(str(value))
        if name == "host":
            return checked_authid(str(value))
    except InvalidName as error:
        raise InvalidSetting(name, origin, str(error)) from None
    except ValueError:
        raise InvalidSetting(name, origin, f"{value!r} is not a number") from None
    return str(value)
