"""sat demo: its options. The demo itself is tested in tests/demo/test_run.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stable_audio_tools.audio import save
from stable_audio_tools.cli import demo as demo_module
from stable_audio_tools.demo import run as run_module
from stable_audio_tools.demo import synth
from stable_audio_tools.demo.folder import DemoSettings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks the demo to do."""
    found: dict[str, Any] = {}

    def run_demo(settings: DemoSettings, *, say: Any, fresh: bool) -> object:
        found.update(settings=settings, fresh=fresh)
        return found.get("returns", "an evaluation")

    monkeypatch.setattr(run_module, "run_demo", run_demo)
    return found


def test_options_are_the_settings(sat: Any, asked: dict[str, Any]) -> None:
    assert sat("demo").status == 0
    assert (asked["settings"], asked["fresh"]) == (DemoSettings(), False)
    options = "--output o --audio-dir d --captions c.csv --classes a,b --minutes 2 --max-steps 7 --clips-per-class 3 --seed 5 --fresh"
    assert sat("demo", *options.split()).status == 0
    assert asked["fresh"]
    assert asked["settings"] == DemoSettings(
        output=Path("o"), audio_dir=Path("d"), captions=Path("c.csv"), classes="a,b", minutes=2, max_steps=7, clips_per_class=3, seed=5
    )
    assert sat("demo", "--train-clips", 9, "--held-out-clips", 4).status == 0
    assert asked["settings"] == DemoSettings(num_train=9, num_held_out=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--captions x.csv", "--captions and --classes describe a folder of your own: give --audio-dir too"),
        ("--classes a,b", "--captions and --classes describe a folder of your own: give --audio-dir too"),
        ("--audio-dir x --train-clips 5", "--train-clips and --held-out-clips say how many sounds to synthesise: leave them out with "),
        ("--audio-dir nowhere --classes a,b", "nowhere: no such folder"),
        ("--audio-dir nowhere", "nowhere: no such folder"),
    ],
)
def test_wrong_options(sat: Any, tmp_path: Path, options: str, message: str) -> None:
    ran = sat("demo", "--output", tmp_path / "out", *options.split())
    assert (ran.status, ran.out) == (1, "")
    assert ran.told.startswith(f"error: {message}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "option", ["--minutes 0", "--max-steps 0", "--clips-per-class 1", "--train-clips 3", "--held-out-clips 1", "--seed -1", "--minutes nan"]
)
def test_impossible_numbers(sat: Any, option: str) -> None:
    ran = sat("demo", *option.split())
    assert ran.status == 2
    assert ran.told.startswith(f"Error: Invalid value for '{option.split()[0]}': ")


def test_stopped_before_the_end(sat: Any, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked["returns"] = None
    assert sat("demo")[:2] == (130, "stopped; type the same command to go on\n")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "run_demo", interrupted)
    assert sat("demo")[:2] == (130, "stopped; type the same command to go on\n")
    assert demo_module.demo.__doc__ is not None
    assert "it goes on where it was" in demo_module.demo.__doc__


@pytest.mark.slow
def test_a_demo_that_is_stopped_by_hand_goes_on(sat_process: Any, tmp_path: Path) -> None:
    rows = ["path,caption"]
    for name in ("kick", "bell"):
        for index in range(8):
            sound = synth.render(name, np.random.default_rng([index]))
            save(tmp_path / "in" / f"{name}{index}.wav", torch.from_numpy(sound)[None], synth.SAMPLE_RATE)
            rows.append(f"{name}{index}.wav,a {name}")
    (tmp_path / "in" / "captions.csv").write_text("\n".join(rows), encoding="utf-8")
    output = tmp_path / "out"
    command = ["demo", "--output", output, "--audio-dir", tmp_path / "in", "--classes", "kick,bell", "--clips-per-class", "2"]
    sat = [sys.executable, "-m", "stable_audio_tools.cli.main"]
    process = subprocess.Popen([*sat, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 60
    while not (output / "training" / "metrics" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in out
    assert out.endswith("stopped; type the same command to go on\n")
    ran = sat_process(*command, "--minutes", "0.05")
    assert ran.status == 0, ran.err
    assert "Listen: open" in ran.out
    assert (output / "index.html").is_file()
