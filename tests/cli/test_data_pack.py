"""sat data pack."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def test_a_folder_is_packed_and_what_was_done_is_said(sat: Any, tmp_path: Path, write_noises: Any) -> None:
    folder = write_noises(tmp_path / "noises", 5)
    (folder / "05.wav").write_bytes(b"no audio")
    command = ("data", "pack", str(folder), str(tmp_path / "out"), "--shard-mb", "0.02", "--caption", "noise")
    done = sat(*command)
    assert "5 samples in 3 shards, 0.1 MB: " in done.out and "left out, as unreadable or rejected: 1 file\n" in done.out
    assert "there already: 3 shards\n" in sat(*command).out


def test_mistakes_are_said_without_a_traceback(sat: Any, tmp_path: Path) -> None:
    failed = sat("data", "pack", str(tmp_path / "absent"), str(tmp_path / "out"))
    assert failed.status == 1
    assert failed.told.endswith("absent: no such folder; expected a folder of audio files, or of latents")
