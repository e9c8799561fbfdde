"""What is made from the contract is as fresh as the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from timbr_wamp.contract.exports import GENERATED

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", GENERATED)
def test_a_generated_file_is_fresh(name: str) -> None:
    assert (ROOT / name).read_text(encoding="utf-8") == GENERATED[name](), (
        f"{name} is stale: run `make docs` (python -m timbr_wamp.contract.exports) and commit it"
    )
