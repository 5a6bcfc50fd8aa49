"""sat check: five mistakes are five lines, where they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

OPEN_1_0 = "Stability-AI__stable-audio-tools__stable_open_model_files-model_config.json"

FIVE = """{
  "model_type": "autoencoder",
  "sample_rate": "44100",
  "sample_size": 65536,
  "model": {
    "encoder": {"type": "ooblek", "config": {"in_channels": 2}},
    "decoder": {
      "type": "oobleck",
      "config": {"out_channels": 2, "latent_dim": 8, "strides": [2, 4],
                 "c_mults": [1, 2], "channel": 32}
    },
    "bottleneck": {"type": "vae"},
    "latent_dim": 8,
    "downsampling_ratio": 16,
    "io_channels": 2,
    "oi_channels": 2
  }
}
"""


def test_five_mistakes_are_five_lines(sat: Any, tmp_path: Path) -> None:
    path = tmp_path / "model config.json"
    path.write_text(FIVE, encoding="utf-8")
    ran = sat("check", path)
    assert (ran.status, ran.err) == (1, "")
    assert ran.out.splitlines() == [
        f"{path}:3:3  sample_rate: input should be a valid integer, got '44100'",
        f"{path}:6:17  model.encoder.type: unknown encoder 'ooblek'; did you mean 'oobleck'?",
        f"{path}:10:37  model.decoder.config.channel: unknown key; did you mean 'channels'?",
        f"{path}:14:5  model.downsampling_ratio: is 16, but decoder.config.strides [2, 4] multiply to 8",
        f"{path}:16:5  model.oi_channels: unknown key; did you mean 'io_channels'?",
    ]


def test_what_is_said_points_at_the_text(sat: Any, tmp_path: Path) -> None:
    """Every position is where the last word of the path stands in quotes."""
    path = tmp_path / "c.json"
    path.write_text(FIVE, encoding="utf-8")
    lines = FIVE.splitlines()
    for told in sat("check", path).out.splitlines():
        line, column, where = re.match(r".*json:(\d+):(\d+)  ([\w.]+):", told).groups()  # pyright: ignore[reportOptionalMemberAccess]
        assert lines[int(line) - 1][int(column) - 1 :].startswith(f'"{where.split(".")[-1]}"')


def test_open_1_0_is_accepted(sat: Any, shared: Path) -> None:
    path = shared / "corpus" / "model_configs" / OPEN_1_0
    assert sat("check", path) == (0, f"{path}: ok\n", "")


def test_several_files_are_all_checked(sat: Any, tmp_path: Path, flow: Any, noises: Path) -> None:
    broken, missing = tmp_path / "broken.json", tmp_path / "missing.json"
    broken.write_text('{"model_type": "autoencoder",}', encoding="utf-8")
    ran = sat("check", missing, flow.config, broken, noises)
    assert ran.status == 1
    assert ran.out.splitlines() == [
        f"{missing}: no such file",
        f"{flow.config}: ok",
        f"{broken}:1:30  not valid JSON: expected a key in double quotes (is there a comma too many?)",
        f"{noises}: ok",
    ]


def test_warnings_alone_are_fine(sat: Any, tmp_path: Path, flow: Any) -> None:
    config = json.loads(flow.config.read_text(encoding="utf-8")) | {"sample_size": 1000}
    path = tmp_path / "c.json"
    path.write_text(json.dumps(config, indent=1), encoding="utf-8")
    ran = sat("check", path)
    assert ran.status == 0
    assert ran.out.splitlines() == [
        f"{path}:3:2  sample_size: warning: 1000 is not a multiple of 16 samples, the model's step; 992 is",
        f"{path}: ok",
    ]


def test_folders_and_files_of_a_dataset_must_exist(sat: Any, tmp_path: Path, write_noises: Any) -> None:
    """As the loader looks for them: from the working directory, or beside the config file."""
    write_noises(tmp_path / "here")
    (tmp_path / "md.py").touch()
    entries = [
        {"id": "a", "path": "here", "custom_metadata_module": "md.py"},
        {"id": "b", "path": "nowhere"},
        {"id": "c", "path": str(tmp_path / "md.py"), "custom_metadata_module": "no.py", "captions_file": "no.csv"},
    ]
    path = tmp_path / "d.json"
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    path.write_text(f'{{"dataset_type": "audio_dir", "datasets": [\n{lines}\n]}}', encoding="utf-8")
    ran = sat("check", path)
    assert ran.status == 1
    assert [re.sub(r":\d+  ", "  ", line.removeprefix(f"{path}:")) for line in ran.out.splitlines()] == [
        "3  datasets[1].path: nowhere: no such folder",
        f"4  datasets[2].path: {tmp_path}/md.py: is a file, not a folder",
        "4  datasets[2].custom_metadata_module: no.py: no such file",
        "4  datasets[2].captions_file: no.csv: no such file",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is a folder, not a JSON file"),
        (b"\x00\xff\xfe", "cannot be read as text: 'utf-8' codec can't decode byte 0xff in position 1: invalid start byte; "
         "is it a JSON file, in UTF-8?"),
        (b"", "1:1  not valid JSON: the text ends where a value should be"),
        (b"[]", "1:1  a model config is an object, got []"),
        (b"{}", "1:1  needs model_type (a model config) or dataset_type (a dataset config)"),
    ],
)  # fmt: skip
def test_what_is_no_config_at_all(sat: Any, tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.json"
    path.mkdir() if content is None else path.write_bytes(content)
    ran = sat("check", path)
    assert ran.status == 1
    assert ran.out.removeprefix(str(path)).lstrip(": ") == f"{message}\n"
