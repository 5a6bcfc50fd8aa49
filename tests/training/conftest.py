"""Runs in processes of their own, which can be killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stable_audio_tools.training.checkpointing import find_checkpoints

ROOT = Path(__file__).resolve().parents[2]
SLOW_DATA = """import time

def get_custom_metadata(info, audio):
    time.sleep({seconds})
    return {{"prompt": info["relpath"], "seconds_start": 0, "seconds_total": 1}}
"""


class Script:
    """``python train.py`` on a model, in a folder, on sounds that take their time to load."""

    def __init__(self, folder, model_config, sounds, *flags, **dataset):
        self.folder, self.flags = folder, flags
        self.started = []
        (folder / "model.json").write_text(json.dumps(model_config))
        for name, seconds in (("slow", 0.03), ("data", 0.0)):
            (folder / f"{name}.py").write_text(SLOW_DATA.format(seconds=seconds))
            entry = {"id": "sounds", "path": str(sounds), "custom_metadata_module": f"{name}.py"}
            (folder / f"{name}.json").write_text(json.dumps({"dataset_type": "audio_dir", "datasets": [entry], **dataset}))

    def start(self, *flags, data="data", save_dir="runs", program=None):
        """Begin, or run another program instead, which gets no flags."""
        command = [sys.executable, str(ROOT / "train.py"), "--model-config", "model.json", "--dataset-config", f"{data}.json"]
        command += f"--name x --save-dir {save_dir} --batch-size 2 --logger csv --accelerator cpu --precision 32".split()
        with (self.folder / "log.txt").open("a") as log:
            process = subprocess.Popen(
                [*command, *self.flags, *flags] if program is None else [sys.executable, str(program)],
                cwd=self.folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, so that a signal to all of it does not reach us
            )
        self.started.append(process)
        return process

    def kill(self):
        """End what a failed test left running."""
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def kill_without_warning(self, process):
        """All of its processes, at once."""
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(timeout=120) == -signal.SIGKILL, self.log()

    def log(self):
        return (self.folder / "log.txt").read_text()

    def rows(self, save_dir="runs"):
        (table,) = (self.folder / save_dir).glob("x/*/metrics/metrics.csv")
        with table.open(newline="") as stream:
            rows = [row for row in csv.DictReader(stream) if _is_step(row)]
            return [{name: value for name, value in row.items() if not name.startswith("model/")} for row in rows]

    def wait_for_step(self, process, step, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not any(int(path.stem.rpartition("=")[2]) >= step for path in find_checkpoints(self.folder / "runs")):
            assert process.poll() is None, self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)


def _is_step(row):
    """Whether a row of the table is of a step: demos log numbers too."""
    return any(value for name, value in row.items() if name.startswith("train/"))


@pytest.fixture
def scripts(tmp_path):
    """``scripts(model_config, sounds, *flags, **dataset)``: a `Script` in this test's folder, on a folder of sounds."""
    made = []

    def make(model_config, sounds, *flags, **dataset):
        made.append(Script(tmp_path, model_config, sounds, *flags, **dataset))
        return made[-1]

    yield make
    for one in made:
        one.kill()
