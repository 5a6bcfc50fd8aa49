"""Every option of ``sat data``, on real sounds: what it changes is what its help promises."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from stable_audio_tools.cli.main import app
from stable_audio_tools.data import scan as scanning
from stable_audio_tools.data.manifest import read_table
from stable_audio_tools.data.shards import pack as packing

pytest.importorskip("pyarrow")
proved: set[str] = {"scan folder", "lint sources", "split folder", "pack folder", "pack out"}  # by every test


def proves(*options: str) -> Callable[[Any], Any]:
    proved.update(options)
    return lambda test: test


@pytest.fixture
def folder(shared: Path, tmp_path: Path) -> Path:
    """Twenty sounds of two kits, with captions: some clipped, some mostly silent."""
    source, target = shared / "data" / "real-oneshots", tmp_path / "sounds"
    kits = [sorted(path for path in (source / kit).rglob("*") if path.is_file())[:10] for kit in ("drum-machines", "freedoom")]
    names = [path.relative_to(source) for kit in kits for path in kit]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)
    with open(source / "captions.csv", newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] == "path" or Path(row[0]) in names]
    with open(target / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return target


def rows_of(manifest: Path) -> list[dict[str, Any]]:
    return read_table(manifest).to_pylist()


def lists_of(folder: Path) -> dict[str, set[str]]:
    return {path.stem: set(path.read_text(encoding="utf-8").split("\n")) - {""} for path in sorted(folder.glob("*.txt"))}


def packed(out: Path) -> list[list[dict[str, Any]]]:
    """The metadata of every sample, shard by shard."""
    found: list[list[dict[str, Any]]] = []
    for shard in sorted(out.glob("*.tar")):
        with tarfile.open(shard) as tar:
            members = [tar.extractfile(member) for member in tar.getmembers() if member.name.endswith(".json")]
            found.append([json.loads(member.read()) for member in members if member is not None])
    return found


# ---- scan ---------------------------------------------------------------------------------------------------------------------------


@proves("scan output", "scan captions")
def test_scan_writes_elsewhere_and_takes_other_captions(sat: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path,caption,licence\nfreedoom/dsbdcls.wav,a door,mine\n")
    manifest = tmp_path / "new" / "m.parquet"
    assert sat("data", "scan", folder, "-o", manifest, "--captions", tmp_path / "mine.csv").out.startswith(f"{manifest}: 20 files, 20 read")
    assert not (folder / "manifest.parquet").exists()
    with_caption = [(row["path"], row["caption_source"], row["licence"]) for row in rows_of(manifest) if row["caption_source"]]
    assert with_caption == [("freedoom/dsbdcls.wav", "mine.csv", "mine")]


@proves("scan jobs")
@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_of_a_scan(sat: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, jobs: int) -> None:
    pools: list[int] = []
    original = scanning.ThreadPoolExecutor
    monkeypatch.setattr(scanning, "ThreadPoolExecutor", lambda count: pools.append(count) or original(count))
    assert sat("data", "scan", folder, "--jobs", jobs).status == 0 and pools == [jobs]


# ---- lint ---------------------------------------------------------------------------------------------------------------------------


def problems(out: str) -> dict[str, int]:
    """How many of each kind."""
    lines = [line.split(": ", 1)[1] for line in out.splitlines() if line.startswith(("error: ", "warning: "))]
    return {line[: line.index(" (")]: int(line[line.index("(") + 1 : line.index(")")]) for line in lines}


@proves("lint min_seconds", "lint max_seconds", "lint max_silence")
def test_limits_of_lint(sat: Any, folder: Path) -> None:
    rows = rows_of((sat("data", "scan", folder), folder / "manifest.parquet")[1])
    for flag, value, title, expected in (
        ("--min-seconds", 0.3, "too short", sum(row["duration_seconds"] < 0.3 for row in rows)),
        ("--max-seconds", 0.5, "too long", sum(row["duration_seconds"] > 0.5 for row in rows)),
        ("--max-silence", 0.2, "mostly silent", sum(row["silence_share"] > 0.2 for row in rows)),
    ):
        before, after = problems(sat("data", "lint", folder).out), problems(sat("data", "lint", folder, flag, value).out)
        assert before.get(title, 0) < after[title] == expected < 20, flag


@proves("lint validation", "lint html", "lint strict")
def test_lint_of_two_sets_with_a_page(sat: Any, folder: Path, tmp_path: Path) -> None:
    held_out = tmp_path / "val"
    held_out.mkdir()
    shutil.copy(sorted((folder / "freedoom").iterdir())[0], held_out / "other name.wav")
    (held_out / "other name.txt").write_text("a door")
    assert sat("data", "lint", folder).status == 0 and sat("data", "lint", folder, "--strict").status == 1
    ran = sat("data", "lint", folder, "--validation", held_out, "--html", tmp_path / "page.html")
    assert ran.status == 1 and problems(ran.out)["in both training and validation"] == 1
    assert "other name.wav" in (tmp_path / "page.html").read_text(encoding="utf-8")


# ---- split --------------------------------------------------------------------------------------------------------------------------


@proves("split output", "split val", "split test", "split seed")
def test_shares_and_seeds_of_a_split(sat: Any, folder: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        ran = sat("data", "split", folder, "-o", tmp_path / str(seed), "--val", 0.2, "--test", 0.1, "--seed", seed)
        assert (ran.status, ran.err) == (0, "")
    first, second = lists_of(tmp_path / "0"), lists_of(tmp_path / "1")
    assert {name: len(files) for name, files in first.items()} == {"train": 14, "val": 4, "test": 2} and not (folder / "splits").exists()
    assert len(set.union(*first.values())) == 20 and first["val"] != second["val"]
    ran = sat("data", "split", folder, "-o", tmp_path / "0", "--val", 0.2)
    assert f"note: {tmp_path}/0/test.txt is of an earlier split and may name the same files; delete it if it is not used" in ran.out


@proves("split by", "split by_regex")
@pytest.mark.parametrize(
    ("flags", "group_of"),
    [
        (("--by", "folder"), lambda path: path.rpartition("/")[0]),
        (("--by", "source"), lambda path: path.split("/")[0]),
        (("--by-regex", r"/([^/])[^/]*$"), lambda path: path.rpartition("/")[2][0]),
    ],
)
def test_what_stays_together(sat: Any, folder: Path, flags: tuple[str, str], group_of: Callable[[str], str]) -> None:
    assert sat("data", "split", folder, "--val", 0.4, *flags).status == 0
    train, val = ({group_of(path) for path in lists_of(folder / "splits")[name]} for name in ("train", "val"))
    assert train and val and not train & val


# ---- pack ---------------------------------------------------------------------------------------------------------------------------


@proves("pack shard_items", "pack shard_mb", "pack shuffle", "pack seed")
def test_shards_of_a_pack(sat: Any, folder: Path, tmp_path: Path) -> None:
    for name, flags in {
        "items": ("--shard-items", 8), "mb": ("--shard-mb", 0.05), "sorted": ("--no-shuffle",), "mixed": (), "other": ("--seed", 1),
    }.items():  # fmt: skip
        assert sat("data", "pack", folder, tmp_path / name, *flags).status == 0
    names = {name: [sample["relpath"] for shard in packed(tmp_path / name) for sample in shard] for name in ("sorted", "mixed", "other")}
    assert [len(shard) for shard in packed(tmp_path / "items")] == [8, 8, 4]
    assert len(packed(tmp_path / "mb")) > 2 and max(path.stat().st_size for path in (tmp_path / "mb").glob("*.tar")) < 120_000
    assert names["sorted"] == sorted(names["mixed"]) != names["mixed"] and sorted(names["other"]) == names["sorted"]
    assert names["other"] != names["mixed"]


@proves("pack caption", "pack captions_file", "pack custom_metadata_module", "pack filelist_path")
def test_what_samples_of_a_pack_say(sat: Any, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("path,caption\nfreedoom/dsbdcls.wav,a door\n")
    (tmp_path / "val.txt").write_text("freedoom/dsbdcls.wav\nfreedoom/dsbdopn.wav\n")
    (tmp_path / "md.py").write_text("def get_custom_metadata(info, audio):\n    return {'samples': audio.shape[-1]}\n")
    flags = ("--captions-file", tmp_path / "mine.csv", "--caption", "a sound", "--filelist-path", tmp_path / "val.txt")
    ran = sat("data", "pack", folder, tmp_path / "out", *flags, "--custom-metadata-module", tmp_path / "md.py")
    assert ran.out.startswith("2 samples in 1 shard, ")
    (samples,) = packed(tmp_path / "out")
    assert {sample["relpath"]: sample["prompt"] for sample in samples} == {
        "freedoom/dsbdcls.wav": "a door", "freedoom/dsbdopn.wav": "a sound",
    }  # fmt: skip
    assert all(sample["samples"] > 1000 for sample in samples)


@proves("pack jobs", "pack profile", "pack endpoint_url")
def test_how_a_pack_is_written(sat: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pools, opened = [], []
    pool, storage = packing.ThreadPoolExecutor, packing.Storage
    monkeypatch.setattr(packing, "ThreadPoolExecutor", lambda count: pools.append(count) or pool(count))
    monkeypatch.setattr(packing, "Storage", lambda url, options: opened.append(dict(options)) or storage(url, {}))
    flags = ("--jobs", 2, "--profile", "me", "--endpoint-url", "https://s3.example.com")
    assert sat("data", "pack", folder, tmp_path / "out", *flags).status == 0
    assert pools == [2] and opened == [{"profile": "me", "endpoint_url": "https://s3.example.com"}]


def test_every_option_is_proved() -> None:
    group: Any = typer.main.get_command(app).commands["data"]  # pyright: ignore[reportAttributeAccessIssue]
    options = {f"{name} {option.name}" for name, command in group.commands.items() for option in command.params}
    assert options - {option for option in options if option.endswith(" help")} == proved
