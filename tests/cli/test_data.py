"""``sat data``: scan, lint and split a folder from the command line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")


@pytest.fixture
def folder(write_noises: Any, tmp_path: Path) -> Path:
    folder = write_noises(tmp_path / "audio", 10)
    (folder / "captions.csv").write_text("path,caption\n" + "".join(f"{index:02},noise\n" for index in range(10)).replace(",", ".wav,"))
    return folder


def test_the_group_explains_its_commands(sat: Any) -> None:
    ran = sat("data", "--help")
    assert ran.status == 0 and [line.split()[0] for line in ran.out.split("Commands:\n")[1].strip().splitlines()][:3] == [
        "scan",
        "lint",
        "split",
    ]
    for command in ("scan", "lint", "split"):
        assert sat("data", command, "--help").out.startswith(f"Usage: sat data {command} ")


def test_scan_writes_a_manifest_and_says_what_it_read(sat: Any, folder: Path) -> None:
    manifest = folder / "manifest.parquet"
    assert sat("data", "scan", folder) == (0, f"{manifest}: 10 files, 10 read, 0 unchanged, 0 gone\n", "")
    (folder / "00.wav").unlink()
    (folder / "bad.wav").write_bytes(b"<html>")
    assert sat("data", "scan", folder).out == (
        f"{manifest}: 10 files, 1 read, 9 unchanged, 1 gone\n1 file cannot be decoded; 'sat data lint' says which and why\n"
    )


def test_lint_reports_and_sets_the_exit_status(sat: Any, folder: Path, tmp_path: Path) -> None:
    assert sat("data", "lint", folder) == (0, "10 files, 0 errors, 0 warnings\n", "")
    shutil.copy(folder / "03.wav", folder / "again <b>.wav")
    ran = sat("data", "lint", folder, "--html", tmp_path / "report.html")
    assert ran.status == 0 and "10 files" not in ran.out and "11 files, 0 errors, 2 warnings" in ran.out
    assert (
        f"warning: exact duplicates (1): keep one of each: the others count as often again\n  {folder}/again <b>.wav: the same as"
        in ran.out
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "again &lt;b&gt;.wav" in page and "<b>.wav" not in page and "exact duplicates (1)" in page
    assert sat("data", "lint", folder, "--strict").status == 1
    (folder / "bad.wav").write_bytes(b"<html>")
    ran = sat("data", "lint", folder)
    assert ran.status == 1 and "error: cannot be decoded (1): " in ran.out and "12 files, 1 error, 3 warnings" in ran.out


def test_long_lists_are_cut_on_the_terminal(sat: Any, write_noises: Any, tmp_path: Path) -> None:
    ran = sat("data", "lint", write_noises(tmp_path / "many", 25))
    assert "warning: without caption (25)" in ran.out and "  ... and 5 more; --html FILE lists them" in ran.out


def test_split_makes_sets_that_lint_finds_disjoint(sat: Any, folder: Path, tmp_path: Path) -> None:
    ran = sat("data", "split", folder, "--val", "0.3")
    assert (ran.status, ran.out) == (0, f"{folder}/splits/train.txt: 7 files\n{folder}/splits/val.txt: 3 files\n")
    for name in ("train", "val"):
        entry = f'{{"id": "x", "path": "{folder}", "filelist_path": "{folder}/splits/{name}.txt"}}'
        (tmp_path / f"{name}.json").write_text(f'{{"dataset_type": "audio_dir", "datasets": [{entry}]}}')
    ran = sat("data", "lint", tmp_path / "train.json", "--validation", tmp_path / "val.json")
    assert (ran.status, ran.out.splitlines()[-1]) == (0, "10 files, 0 errors, 0 warnings")
    ran = sat("data", "lint", folder, "--validation", tmp_path / "val.json")
    assert ran.status == 1 and "error: in both training and validation (3)" in ran.out


def test_split_by_metadata(sat: Any, folder: Path) -> None:
    rows = "".join(f"{index:02}.wav,noise,artist {index // 5}\n" for index in range(10))
    (folder / "captions.csv").write_text(f"path,caption,artist\n{rows}")
    assert sat("data", "split", folder, "--val", "0.5", "--by", "artist").status == 0
    assert {name[0:2] for name in (folder / "splits" / "val.txt").read_text().split()} in (
        {"00", "01", "02", "03", "04"},
        {"05", "06", "07", "08", "09"},
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scan", "nowhere"], "error: nowhere: no such folder; a dataset's path is a folder of audio files"),
        (["lint", "nowhere"], "error: nowhere"),
        (["split", "nowhere"], "error: nowhere: no such folder"),
        (["split", ".", "--by", "x", "--by-regex", "y"], "error: --by and --by-regex both say what stays together: give one of them"),
    ],
)
def test_mistakes_are_one_line(sat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    ran = sat("data", *arguments)
    assert ran.status == 1 and ran.told.startswith(message)
