"""A kernel whose files cannot be written is not started, and leaves nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from timbr_wamp import processes, runtime
from timbr_wamp.components import launcher
from timbr_wamp.errors import KernelStartFailed

KERNEL_ID = "lab_0123456789ab"


@pytest.mark.parametrize("unwritten", ["connection-", "kernel-"])
def test_a_kernel_whose_file_cannot_be_written_is_ended_and_forgotten(
    unwritten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tmp_path.chmod(0o700)
    replace, spawn = runtime.replace_file, processes.spawn
    spawned = []

    def full(path: Path, content: bytes, **options: object) -> None:
        if path.name.startswith(unwritten):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        replace(path, content)

    def watched(*args: object, **options: object) -> processes.Process:
        spawned.append(spawn(*args, **options))
        return spawned[-1]

    monkeypatch.setattr(runtime, "replace_file", full)
    monkeypatch.setattr(processes, "spawn", watched)
    with pytest.raises(KernelStartFailed, match=f"cannot write .*{unwritten}{KERNEL_ID}.json: No space left"):
        launcher.start_kernel(tmp_path, KERNEL_ID)
    assert not any(process.alive for process in spawned)
    assert len(spawned) == (unwritten == "kernel-")
    assert list(tmp_path.iterdir()) == []
