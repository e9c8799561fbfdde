"""Configuration from explicit arguments, environment variables, ``timbr.toml`` and the user's file, in this order.

`load_settings` reads the settings once; the frozen `Settings` object is then passed on. No other
module reads the environment. Variables of the ancestors (``JUPYTER_WAMP_ROUTER`` …) still work; the
variables of timbr_wamp take precedence.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import platformdirs

from timbr_wamp.command_line import command_line
from timbr_wamp.consent import Question, is_own_file, question_of
from timbr_wamp.errors import InvalidArgument, InvalidName, InvalidSetting, what_there_is
from timbr_wamp.names import DEFAULT_REALM, authid_from, checked_authid, router_url

__all__ = ["ConsentWanted", "Settings", "load_settings"]

logger = logging.getLogger(__name__)

APP = "timbr_wamp"
ENV_PREFIX = "TIMBR_WAMP_"
PROJECT_FILE = "timbr.toml"
#: Environment variables with a project's folder or file. The second is timbr-machine's.
PROJECT_VARIABLES = (f"{ENV_PREFIX}PROJECT", "TIMBR_PROJECT")

#: Folder of the journals of a process's machines; ``off``: none. And the process, unless that is a kernel.
JOURNALS_VARIABLE, JOURNALS_PID_VARIABLE = f"{ENV_PREFIX}JOURNALS", f"{ENV_PREFIX}JOURNALS_PID"
#: In the data folder: a folder for each kernel, and for each name of a machine without a kernel.
JOURNALS_FOLDER = "journals"

#: How to pass a token, for messages.
TOKENS_RULE = (
    f"a token goes only to the URL that it was set for: set {ENV_PREFIX}URL and {ENV_PREFIX}TOKEN, or pass both"
)

#: Environment variables of the ancestors (juno-magic, timbr-machine, minibatch).
LEGACY_ENV = {
    "url": ("JUPYTER_WAMP_ROUTER",),
    "realm": ("JUPYTER_WAMP_REALM",),
    "token": ("JUNO_AUTH_TOKEN",),
    "host": ("TIMBR_HOST",),
    "streams_url": ("MINIBATCH_MONGO_URL",),
    "shutdown_interval_s": ("SHUTDOWN_INTERVAL",),
}


class ConsentWanted(UserWarning):
    """A project's file sets what is used with the user's consent only."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings. ``docs/reference/configuration.md`` describes them."""

    #: URL of the router: ``ws://…``, ``wss://…`` or ``rs+unix:///path``. None means the local router.
    url: str | None = None
    realm: str = DEFAULT_REALM
    #: ``<name>.<secret>``, for `url` and no other. None means the token of the local router.
    token: str | None = field(default=None, repr=False)
    #: Name of this computer as a host of kernels.
    host: str = field(default_factory=lambda: authid_from(socket.gethostname()))
    #: Address on which the router listens.
    interface: str = "127.0.0.1"
    port: int = 8080
    #: TLS certificate and key; set both or none.
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    #: Folder with mode 0700 for sockets and runtime files of running processes.
    runtime_dir: Path = field(default_factory=lambda: _default_runtime_dir())
    #: Folder for persistent data: node folder, tokens, the router's environment.
    data_dir: Path = field(default_factory=lambda: _default_data_dir("data_dir"))
    #: Where `timbr_wamp.streams.stream` keeps streams. None means an SQLite file in ``data_dir``.
    streams_url: str | None = field(default=None, repr=False)
    #: The router's virtual environment. None means a folder in ``data_dir``.
    router_env: Path | None = None
    #: Path of a crossbar executable to use instead of the router's environment.
    crossbar: Path | None = None
    #: Idle seconds after which a bridge ends its kernel; None and 0 mean never.
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
    """Return the settings. ``explicit`` values that are not None take precedence over all others.

    Args:
        environ: the environment; None means `os.environ`.
        folder: the folder of ``timbr.toml``, or the file itself; None: see `project_file`.

    Raises:
        InvalidSetting: a name is unknown or a value is invalid; the error says where it came from.
    """
    environ = os.environ if environ is None else environ
    user_file = _user_file(environ)
    given = {}
    for name, value in explicit.items():
        if name not in NAMES:
            raise InvalidSetting(name, "arguments", f"unknown setting{what_there_is(name, 'known settings', NAMES)}")
        if value is not None:
            given[name] = _converted(name, value, "arguments")
    users = {} if user_file is None else _of_own_file(user_file)
    return _merged(users, _of_project(folder, environ), _from_environment(environ), given)


def _merged(*sources: Mapping[str, Any]) -> Settings:
    """Return the settings of several sources, of which later ones take precedence.

    A token belongs to the URL that was in force where it was given, and goes to no other: when a later source names
    another URL, it is left out.
    """
    values: dict[str, Any] = {}
    token_url: str | None = None
    for source in sources:
        values.update(source)
        if "token" in source:
            token_url = values.get("url")
    if "token" in values and not same_router(token_url, values.get("url")):
        del values["token"]
    return Settings(**values)


def same_router(one: str | None, other: str | None) -> bool:
    """Return whether two URLs are written for the same router. None is the local router.

    >>> same_router("WS://example.org/ws", "ws://example.org:80/ws/"), same_router("ws://example.org/", "ws://other/")
    (True, False)
    """
    return one == other or (one is not None and other is not None and _address(one) == _address(other))


def _address(url: str) -> tuple[object, ...]:
    try:
        parts = urlsplit(router_url(url))
    except InvalidArgument:
        return (url,)
    port = parts.port or {"ws": 80, "wss": 443}.get(parts.scheme)
    return parts.scheme, parts.username, parts.hostname, port, parts.path.rstrip("/"), parts.query


def _of_own_file(path: Path) -> dict[str, Any]:
    """Return the settings of a file; those of another user's file are ignored."""
    if is_own_file(path):
        return settings_of_file(path)
    logger.warning("%s is ignored: others may write it", path)
    return {}


def _of_project(folder: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of the project's file, without those that want a consent and have none."""
    path = project_file(folder, environ)
    values = _of_own_file(path)
    question = unanswered(folder, environ) if values else None
    if question is None:
        return values
    text = f"{question}; not used without your consent: `{command_line('trust', str(path))}`"
    warnings.warn(text, ConsentWanted, stacklevel=4)
    return {name: value for name, value in values.items() if name not in question.values}


def unanswered(folder: Path | None = None, environ: Mapping[str, str] | None = None) -> Question | None:
    """Return what the project's file asks consent for, and the user has not consented to; None when nothing."""
    environ = os.environ if environ is None else environ
    path = project_file(folder, environ)
    question = question_of(path, settings_of_file(path) if is_own_file(path) else {})
    user_file = _user_file(environ)
    config_dir = None if user_file is None else user_file.parent
    return None if question is None or question.is_answered(config_dir) else question


def consent(question: Question, environ: Mapping[str, str] | None = None) -> None:
    """Remember that the user consents to what a project's file sets.

    Raises:
        InvalidSetting: the user has no configuration folder.
        OSError: it cannot be written.
    """
    user_file = _user_file(os.environ if environ is None else environ)
    if user_file is None:
        problem = f"this user has no home folder; set {ENV_PREFIX}CONFIG_DIR, or HOME"
        raise InvalidSetting("(consent)", str(question.path), problem)
    question.consent(user_file.parent)


def project_file(project: Path | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Return the path of the project's file, which need not exist.

    It is ``project`` or ``timbr.toml`` in that folder. Without ``project`` the environment variables
    `PROJECT_VARIABLES` name the project; without them it is ``timbr.toml`` in the working folder.
    """
    environ = os.environ if environ is None else environ
    named = next((environ[name] for name in PROJECT_VARIABLES if environ.get(name)), None)
    path = project or (expanded(named) if named is not None else working_folder())
    return path if path.suffix == ".toml" and not path.is_dir() else path / PROJECT_FILE


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~name`` replaced by the home folder.

    Raises:
        InvalidArgument: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InvalidArgument("path", f"{path}: there is no such home folder") from None


def working_folder() -> Path:
    """Return the working folder; it need not exist any more."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path()


def _default_runtime_dir() -> Path:
    """Return the user's runtime folder, or without one (no login session) a folder in the home, never in /tmp."""
    base = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid() if hasattr(os, 'getuid') else 0}"
    if os.access(base, os.W_OK):
        return Path(base) / APP
    return _default_data_dir("runtime_dir") / "run"


def _default_data_dir(setting: str) -> Path:
    """Return the user's folder for data.

    Raises:
        InvalidSetting: the user has no home folder, as in a container with any user id.
    """
    try:
        return Path(platformdirs.user_data_dir(APP))
    except RuntimeError:
        problem = f"this user has no home folder; set {ENV_PREFIX}{setting.upper()}, or HOME"
        raise InvalidSetting(setting, "defaults", problem) from None


def _user_file(environ: Mapping[str, str]) -> Path | None:
    """Return the path of the user's own file; None for a user without a home folder."""
    folder = environ.get(ENV_PREFIX + "CONFIG_DIR")
    try:
        return Path(folder or platformdirs.user_config_dir(APP)) / "config.toml"
    except RuntimeError:
        return None


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    values = {}
    for name in NAMES:
        for variable in (ENV_PREFIX + name.upper(), *LEGACY_ENV.get(name, ())):
            if environ.get(variable):
                values[name] = _converted(name, environ[variable], f"environment variable {variable}")
                break
    return values


def read_toml(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file; it may begin with a byte order mark, as some editors write it.

    Raises:
        OSError, ValueError: it cannot be read; it is not TOML, or not UTF-8.
    """
    return tomllib.loads(path.read_text(encoding="utf-8-sig"))


def settings_of_file(path: Path) -> dict[str, Any]:
    """Return the table ``[settings]`` of a file; empty when there is no file.

    Raises:
        InvalidSetting: the file is not valid TOML, or has an unknown name or an invalid value.
    """
    try:
        table = read_toml(path).get("settings", {})
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except OSError as error:
        raise InvalidSetting("(file)", str(path), f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InvalidSetting("(file)", str(path), f"not readable as TOML: {error}") from None
    if not isinstance(table, dict):
        raise InvalidSetting("settings", str(path), "is not a table; write [settings]")
    unknown = sorted(set(table) - set(NAMES))
    if unknown:
        known = what_there_is(unknown[0], "known settings", NAMES)
        raise InvalidSetting(unknown[0], str(path), f"unknown setting{known}")
    return {name: _converted(name, value, str(path)) for name, value in table.items()}


def _converted(name: str, value: object, origin: str) -> object:
    try:
        if name in _PATHS:
            return expanded(str(value))
        if name == "port":
            return int(str(value))
        if name == "shutdown_interval_s":
            seconds = float(str(value))
            if not 0 <= seconds < math.inf:
                raise InvalidSetting(name, origin, f"{value} is not a number of seconds; 0 means never")
            return seconds
        if name == "host":
            return checked_authid(str(value))
        if name == "url":
            router_url(str(value))  # completed where it is used, so that it stays what the user wrote
    except InvalidSetting:
        raise
    except InvalidArgument as error:
        raise InvalidSetting(name, origin, error.problem) from None
    except InvalidName as error:
        raise InvalidSetting(name, origin, str(error)) from None
    except ValueError:
        raise InvalidSetting(name, origin, f"{value!r} is not a number") from None
    return str(value)
