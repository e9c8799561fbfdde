"""A notebook that puts its own machine on the router, and takes it off: real kernels, a real router."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
from notebooks import Notebook

import timbr_wamp
from timbr_wamp.client import Client
from timbr_wamp.router import Router
from timbr_wamp.settings import Settings

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]


@pytest.fixture
def open_notebook() -> Iterator[Callable[[], Notebook]]:
    """Open notebooks with the extension loaded and a machine ``m``; they are closed at the end."""
    kernels = contextlib.ExitStack()

    def open_one() -> Notebook:
        notebook = Notebook()
        kernels.enter_context(notebook.client.setup_kernel())
        notebook("%load_ext timbr_wamp\nimport timbr_wamp\nm = timbr_wamp.Machine(2)\nm[0] = lambda x: x + 1")
        return notebook

    with kernels:
        yield open_one


@pytest.fixture
def client(router: Router, settings: Settings) -> Iterator[Client]:
    with timbr_wamp.connect(router.url, router.admin_token, settings=settings) as client:
        yield client


def test_x(router, client, open_notebook):
    a = open_notebook()
    import time

    t = time.time()
    print(a("s = m.share('mine'); print(s)"), time.time() - t)
    print(client.kernels())
    print(client.kernel("mine").machine()(3))
    print(a("s"), a.cell.outputs)
    t = time.time()
    print(a("%wamp unshare"), time.time() - t)
    print(client.kernels())
    assert 0
