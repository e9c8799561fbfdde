"""The locks name every version with its hash, for whoever installs, and no place to install from."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LOCKS = [*sorted((ROOT / "locks").glob("*.txt")), ROOT / "router-config" / "requirements.txt"]
#: Extras that `make test`, `make lint`, `make bench` and `make docs` install beside what everybody needs.
DEVELOP_EXTRAS = ("test", "lint", "bench", "docs")
SYSTEMS = [
    {"sys_platform": system, "python_version": version, "python_full_version": f"{version}.0"}
    for system in ("linux", "darwin")
    for version in ("3.11", "3.12", "3.13")
]


def locked(path: Path) -> list[tuple[Requirement, int]]:
    """Return each package of a lock, and how many hashes it has."""
    found: list[tuple[Requirement, int]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("    --hash=sha256:"):
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif line and not line.lstrip().startswith("#"):
            found.append((Requirement(line.removesuffix("\\").strip()), 0))
    return found


def versions(path: Path, system: dict[str, str]) -> dict[str, str]:
    """Return the version of each package that a lock installs on a system."""
    found = {}
    for requirement, _ in locked(path):
        if requirement.marker is None or requirement.marker.evaluate(system):
            assert requirement.name not in found, f"{requirement.name} twice on {system}"
            (pin,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = pin.version
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_has_one_version_and_hashes(path: Path) -> None:
    packages = locked(path)
    assert packages
    for requirement, hashes in packages:
        assert [pin.operator for pin in requirement.specifier] == ["=="], requirement
        assert hashes, f"{requirement} has no hash"


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_a_lock_names_no_registry_and_no_folder(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|file:|--index-url|--find-links|(^|\s)/\w", text, re.MULTILINE)


def declared() -> Iterator[tuple[str, Requirement]]:
    """Give each requirement of ``setup.cfg`` with the lock that must hold it."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    extras = [(extra, config["options.extras_require"][extra]) for extra in DEVELOP_EXTRAS]
    for group, text in [("runtime", config["options"]["install_requires"]), *extras]:
        for line in text.strip().splitlines():
            if not line.startswith("#"):
                yield "runtime" if group == "runtime" else "develop", Requirement(line)


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: f"{system['sys_platform']}-{system['python_version']}")
def test_the_locks_hold_what_setup_cfg_allows(system: dict[str, str]) -> None:
    installed = {name: versions(ROOT / "locks" / f"{name}.txt", system) for name in ("runtime", "develop")}
    for lock, requirement in declared():
        version = installed[lock].get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not in locks/{lock}.txt: make lock"
        assert version in requirement.specifier, f"{requirement} is {version} in locks/{lock}.txt: make lock"
    assert installed["runtime"].items() <= installed["develop"].items(), "tests run with what users have"


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: f"{system['sys_platform']}-{system['python_version']}")
def test_the_router_is_installed_without_what_excludes_txt_names(system: dict[str, str]) -> None:
    lines = (ROOT / "router-config" / "excludes.txt").read_text(encoding="utf-8").splitlines()
    excluded = {canonicalize_name(line) for line in lines if not line.startswith("#")}
    installed = versions(ROOT / "router-config" / "requirements.txt", system)
    assert excluded
    assert not excluded & set(installed)
    assert {"crossbar", "autobahn", "twisted"} <= set(installed)


def test_a_broken_autobahn_is_not_allowed() -> None:
    (autobahn,) = [requirement for _, requirement in declared() if requirement.name == "autobahn"]
    assert "26.6.1" not in autobahn.specifier, "its cryptosign cannot be imported"
