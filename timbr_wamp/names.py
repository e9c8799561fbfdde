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
from collections.abc import Iterator
from urllib.parse import SplitResult, urlsplit

from timbr_wamp.errors import InvalidArgument, InvalidName

PREFIX = "io.timbr"
KERNEL_PREFIX = f"{PREFIX}.kernel"
HOST_PREFIX = f"{PREFIX}.host"
NODE_PREFIX = f"{PREFIX}.node"

#: Default name of a machine.
DEFAULT_MACHINE = "machine"
DEFAULT_REALM = "timbr"

#: Roles that a token may have, and those that the token in a link to the page may have.
ROLES = ("viewer", "operator", "admin", "host")
LINK_ROLES = ROLES[:3]

UNIX_SCHEME = "rs+unix://"
LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
#: Where `timbr-wamp up` puts the router and its websocket.
ROUTER_PORT, ROUTER_PATH = 8080, "/ws"
#: Schemes of a router's addresses, and those of its page.
_SCHEMES = {"ws": "ws", "wss": "wss", "http": "ws", "https": "wss"}
_URL_FORM = f"write ws://HOST:PORT{ROUTER_PATH}, as ws://127.0.0.1:{ROUTER_PORT}{ROUTER_PATH}; or wss://… for TLS"

#: First bytes of the topics of batches on a machine's publishing socket: of all records, and of a sample of them. No
#: message id begins with a zero byte.
BATCHES, SAMPLES = b"\0batches:", b"\0samples:"

#: Longest names: of kernels and machines, and of tokens, which are the first part of kernel ids.
NAME_LIMIT, TOKEN_NAME_LIMIT = 64, 32
_NAME = re.compile(r"[a-z0-9_]+")
_KERNEL_ID = re.compile(r"(?P<authid>[a-z0-9_]{1,32})_[0-9a-f]{12}")
_OID = re.compile(r"[0-9a-f]{24}")
_SLOT_NUMBER = re.compile(r"f?[0-9]{1,9}|-[0-9]{1,9}")
#: What the router takes. It drops the connection of whoever asks for a realm with another name.
_REALM = re.compile(r"[A-Za-z][A-Za-z0-9_\-@.]{2,254}")


def checked_name(text: str, limit: int = NAME_LIMIT) -> str:
    """Return ``text`` if it is a name: 1 to ``limit`` lower-case letters, digits or ``_``.

    The one rule for all that people name: kernels, machines, tokens, hosts. Names are parts of URIs, of files' names
    and of commands, and a rule for each of them would have to be remembered.

    >>> checked_name("lab_2")
    'lab_2'
    >>> checked_name("My Lab")
    Traceback (most recent call last):
    timbr_wamp.errors.InvalidName: 'My Lab' is not a valid name: expected 1 to 64 of a-z, 0-9 and _, such as my_lab
    """
    if len(text) > limit or not _NAME.fullmatch(text):
        raise InvalidName(text[:80], f"1 to {limit} of a-z, 0-9 and _, such as {name_from(text, limit)}")
    return text


def name_from(text: str, limit: int = NAME_LIMIT, default: str = "lab") -> str:
    """Return ``text`` changed so that `checked_name` accepts it, for defaults such as a file's or computer's name.

    >>> name_from("Ada's MacBook.local"), name_from("…")
    ('ada_s_macbook_local', 'lab')
    """
    return re.sub(r"[^a-z0-9_]+", "_", text.lower()).strip("_")[:limit] or default


def checked_component(text: str) -> str:
    """Return ``text`` if it is a valid component of a URI under a kernel or host: see `checked_name`."""
    return checked_name(text)


def checked_authid(text: str) -> str:
    """Return ``text`` if it is a valid name of a token: see `checked_name`."""
    return checked_name(text, TOKEN_NAME_LIMIT)


def checked_realm(text: str) -> str:
    """Return ``text`` if it is a valid name of a realm."""
    if not _REALM.fullmatch(text):
        raise InvalidName(text, "a realm: a letter, and 2 to 254 of A-Z, a-z, 0-9, _, -, @ and .")
    return text


def router_url(text: str) -> str:
    """Return a router's URL as clients use it; what is missing is added where there is only one choice.

    The address of the router's page is also taken; its fragment, which may hold a token, is dropped.

    >>> router_url("localhost:8080"), router_url("http://127.0.0.1:8080/#token=…"), router_url("wss://example.org")
    ('ws://localhost:8080/ws', 'ws://127.0.0.1:8080/ws', 'wss://example.org/ws')

    Raises:
        InvalidArgument: it is not the address of a router; the error has the right form.
    """
    url = text.strip()
    if url.lower().startswith(UNIX_SCHEME):
        path = url[len(UNIX_SCHEME) :]
        if not path.startswith("/"):
            raise InvalidArgument("url", f"{url!r} has no absolute path; write {UNIX_SCHEME}/PATH")
        return UNIX_SCHEME + path
    shown = url.partition("#")[0]
    if not shown or not shown.isprintable() or " " in shown:
        raise InvalidArgument("url", f"{shown!r} is not a router's address; {_URL_FORM}")
    has_scheme = "://" in shown
    parts = _split(url if has_scheme else f"ws://{url}", shown)
    if not has_scheme:
        parts = _with_scheme(parts, shown)
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not parts.hostname:
        raise InvalidArgument("url", f"{shown!r} is not a router's address; {_URL_FORM}")
    if parts.scheme != scheme:
        parts = parts._replace(path=parts.path.rstrip("/") + ROUTER_PATH, query="", fragment="")
    if parts.fragment:
        raise InvalidArgument("url", f"{shown!r} was given with a fragment, which only the page's address has")
    return parts._replace(scheme=scheme, path=parts.path or ROUTER_PATH).geturl()


def _split(url: str, shown: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna")  # or the resolver raises it
        if parts.port == 0:
            raise ValueError("port 0")
    except ValueError as error:
        raise InvalidArgument("url", f"{shown!r} is not a router's address ({error}); {_URL_FORM}") from None
    return parts


def _with_scheme(parts: SplitResult, shown: str) -> SplitResult:
    """Return an address that was given without a scheme with one: this computer's router needs no TLS."""
    if parts.hostname in LOOPBACK_HOSTS:
        netloc = parts.netloc if parts.port is not None else f"{parts.netloc}:{ROUTER_PORT}"
        return parts._replace(netloc=netloc, path=parts.path.removesuffix("/"))
    if parts.port is not None and parts.hostname:
        full = parts._replace(path=parts.path or ROUTER_PATH, query="", fragment="").geturl()
        problem = f"{shown!r} has no scheme; write {full}, or wss://… for TLS"
        raise InvalidArgument("url", problem)
    raise InvalidArgument("url", f"{shown!r} is not a router's address; {_URL_FORM}")


def authid_from(text: str) -> str:
    """Return ``text`` changed so that `checked_authid` accepts it, for defaults such as a computer's name."""
    return name_from(text, TOKEN_NAME_LIMIT, "host")


def kernel_name_from(text: str) -> str:
    r"""Return ``text`` changed so that it may be a kernel's name, for defaults such as a connection file's name.

    >>> kernel_name_from("two\nlines [/]")
    'two_lines'
    """
    return name_from(text, NAME_LIMIT, "kernel")


def checked_kernel_id(text: str) -> str:
    """Return ``text`` if it is a kernel id: ``<host's authid>_<12 hex digits>``."""
    if not _KERNEL_ID.fullmatch(text):
        raise InvalidName(text, "a kernel id such as lab_4f2a9c01d3e7")
    return text


def is_kernel_id(text: str) -> bool:
    """Return whether ``text`` has the form of a kernel id."""
    return _KERNEL_ID.fullmatch(text) is not None


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


def kernel_of_uri(uri: str) -> str | None:
    """Return the id of the kernel that a URI belongs to; None when it is not a kernel's.

    >>> kernel_of_uri("io.timbr.kernel.lab_4f2a9c01d3e7.machine.status")
    'lab_4f2a9c01d3e7'
    >>> kernel_of_uri("io.timbr.kernel.list")
    """
    kernel_id = uri.removeprefix(f"{KERNEL_PREFIX}.").partition(".")[0]
    try:
        return checked_kernel_id(kernel_id) if uri.startswith(f"{KERNEL_PREFIX}.") else None
    except InvalidName:
        return None


def slot_key(text: str) -> int | str:
    """Return the slot that a text means: a number for ``3`` and ``f3``, else a name.

    No slot is named like that, so a text means one slot only.

    >>> slot_key("3"), slot_key("f3"), slot_key("-1"), slot_key("clean")
    (3, 3, -1, 'clean')
    """
    found = _SLOT_NUMBER.fullmatch(text)
    return int(text.removeprefix("f")) if found else text


def begins_python(word: str) -> bool:
    """Return whether a word in place of a slot begins the text of a function.

    >>> begins_python("lambda"), begins_python("lambda:"), begins_python("clean")
    (True, True, False)
    """
    return word.partition(":")[0] in ("lambda", "def", "async", "class", "import", "from")


def host_uri(authid: str, *parts: str) -> str:
    """Return the URI of one of a host's procedures.

    >>> host_uri("lab", "start")
    'io.timbr.host.lab.start'
    """
    return ".".join((HOST_PREFIX, checked_authid(authid), *map(checked_component, parts)))


def new_run() -> str:
    """Return a new run id, 16 random hex digits. Record numbers are unique within a run."""
    return secrets.token_hex(8)


def new_listener(form: bytes) -> bytes:
    """Return a new topic for one listener to batches: ``form`` is `BATCHES` or `SAMPLES`."""
    return form + secrets.token_hex(8).encode()


#: The last three digits of an oid, in order.
_LAST_DIGITS = tuple(f"{number:03x}" for number in range(4096))


class OidMaker:
    """Make message ids: 24 hex digits in the layout of a MongoDB ObjectId.

    4 bytes of UTC seconds, 5 random bytes of this process, 3 bytes of a counter that starts at
    random, as https://www.mongodb.com/docs/manual/reference/bson-types/#objectid says. Ids of one
    thread sort by the second they were made in, and by the counter within it, as long as it does
    not wrap (16.7 million ids). Any thread: the counter is taken in blocks of 4096 from an
    `itertools.count`, and each number of a block from an iterator, both atomic in CPython. All that
    changes once a second or once a block is one tuple, replaced whole.
    """

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._process = secrets.token_hex(5)
        self._blocks = itertools.count(secrets.randbelow(1 << 10))
        self._change(0.0)

    def _change(self, now: float, block: tuple[int, Iterator[str]] | None = None) -> None:
        """Take the second of ``now``, and a new block where none is given."""
        number, last_digits = block or (next(self._blocks) & 0xFFF, iter(_LAST_DIGITS))
        second = int(now)
        prefix = f"{second & 0xFFFFFFFF:08x}{self._process}{number:03x}"
        #: The ids' second and the next one, all but their last three digits, the block's number, what is left of it.
        self._state = (second, second + 1, prefix, number, last_digits)

    def __call__(self, now: float | None = None) -> str:
        """Return a new id; ``now`` is UTC seconds, read from the clock when not given."""
        if now is None:
            now = time.time()
        while True:
            second, following, prefix, number, last_digits = self._state
            if second <= now < following:
                for digits in last_digits:
                    return prefix + digits
                self._change(now)
            else:
                self._change(now, (number, last_digits))

    def many(self, now: float, count: int) -> list[str]:
        """Return ``count`` new ids of one moment, in order; a fifth of the cost of as many calls."""
        if count == 1:
            return [self(now)]
        oids: list[str] = []
        while len(oids) < count:
            second, following, prefix, number, last_digits = self._state
            if not second <= now < following:
                self._change(now, (number, last_digits))
                continue
            made = list(map(prefix.__add__, itertools.islice(last_digits, count - len(oids))))
            if not made:
                self._change(now)
            oids += made
        return oids


new_oid = OidMaker()
new_oids = new_oid.many


def checked_oid(text: object) -> str:
    """Return ``text`` if it is a message id: 24 lower-case hex digits."""
    if not isinstance(text, str) or not _OID.fullmatch(text):
        raise InvalidName(str(text)[:80], "a message id: 24 hex digits (0-9, a-f)")
    return text
