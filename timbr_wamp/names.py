"""Build and check names that are shared between processes: URIs, kernel ids, message ids and runs.

A kernel id is used in URIs, file names and socket addresses, so it contains only characters that all
of them allow. It is never the Jupyter connection key, which is a secret.
"""

from __future__ import annotations

import itertools
import os
import re
import secrets
import time

from timbr_wamp.errors import InvalidName

PREFIX = "io.timbr"
KERNEL_PREFIX = f"{PREFIX}.kernel"
HOST_PREFIX = f"{PREFIX}.host"
NODE_PREFIX = f"{PREFIX}.node"

#: Default name of a machine.
DEFAULT_MACHINE = "machine"
DEFAULT_REALM = "timbr"

_COMPONENT = re.compile(r"[a-z0-9_]{1,64}")
_AUTHID = re.compile(r"[a-z0-9_]{1,32}")
_KERNEL_ID = re.compile(r"(?P<authid>[a-z0-9_]{1,32})_[0-9a-f]{12}")
_OID = re.compile(r"[0-9a-f]{24}")


def checked_component(text: str) -> str:
    """Return ``text`` if it is a valid component of a URI: 1 to 64 lower-case letters, digits or ``_``."""
    if not _COMPONENT.fullmatch(text):
        raise InvalidName(text, "1 to 64 of a-z, 0-9 and _")
    return text


def checked_authid(text: str) -> str:
    """Return ``text`` if it is a valid name of a token: 1 to 32 lower-case letters, digits or ``_``."""
    if not _AUTHID.fullmatch(text):
        raise InvalidName(text, "1 to 32 of a-z, 0-9 and _")
    return text


def authid_from(text: str) -> str:
    """Return ``text`` changed so that `checked_authid` accepts it, for defaults such as a computer's name.

    >>> authid_from("Ada's MacBook.local")
    'ada_s_macbook_local'
    """
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:32] or "host"


def checked_kernel_id(text: str) -> str:
    """Return ``text`` if it is a kernel id: ``<host's authid>_<12 hex digits>``."""
    if not _KERNEL_ID.fullmatch(text):
        raise InvalidName(text, "a kernel id such as lab_4f2a9c01d3e7")
    return text


def new_kernel_id(authid: str) -> str:
    """Return a new random kernel id of the host ``authid``."""
    return f"{checked_authid(authid)}_{secrets.token_hex(6)}"


def host_of_kernel(kernel_id: str) -> str:
    """Return the authid of the host of a kernel.

    >>> host_of_kernel("lab_2_4f2a9c01d3e7")
    'lab_2'
    """
    return checked_kernel_id(kernel_id)[:-13]


def kernel_uri(kernel_id: str, *parts: str) -> str:
    """Return the URI of one of a kernel's procedures or topics.

    >>> kernel_uri("lab_4f2a9c01d3e7", "execute")
    'io.timbr.kernel.lab_4f2a9c01d3e7.execute'
    >>> kernel_uri("lab_4f2a9c01d3e7", "machine", "status")
    'io.timbr.kernel.lab_4f2a9c01d3e7.machine.status'
    """
    return ".".join((KERNEL_PREFIX, checked_kernel_id(kernel_id), *map(checked_component, parts)))


def host_uri(authid: str, *parts: str) -> str:
    """Return the URI of one of a host's procedures.

    >>> host_uri("lab", "start")
    'io.timbr.host.lab.start'
    """
    return ".".join((HOST_PREFIX, checked_authid(authid), *map(checked_component, parts)))


def new_run() -> str:
    """Return a new run id, 16 random hex digits. Record numbers are unique within a run."""
    return secrets.token_hex(8)


class OidMaker:
    """Generate message ids: 24 hex digits in the layout of a MongoDB ObjectId.

    4 bytes of UTC seconds, 5 random bytes per process, 3 bytes of a counter with a random start; see
    https://www.mongodb.com/docs/manual/reference/bson-types/#objectid. Ids of one process sort by
    their second and, within it, by the counter, until the counter wraps (16.7 million ids). Any
    thread: the counter is `itertools.count`, which is atomic in CPython.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._process = secrets.token_hex(5)
        self._counter = itertools.count(secrets.randbelow(1 << 22))

    def __call__(self, now: float | None = None) -> str:
        """Return a new id; ``now`` is in UTC seconds, the current time by default."""
        seconds = int(time.time() if now is None else now) & 0xFFFFFFFF
        return "%08x%s%06x" % (seconds, self._process, next(self._counter) & 0xFFFFFF)


new_oid = OidMaker()


def checked_oid(text: object) -> str:
    """Return ``text`` if it is a message id: 24 lower-case hex digits."""
    if not isinstance(text, str) or not _OID.fullmatch(text):
        raise InvalidName(str(text)[:80], "a message id of 24 hex digits (0-9, a-f)")
    return text
