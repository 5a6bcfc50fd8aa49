"""Where numbers, sounds and pictures go."""

import csv
import importlib.util

import pytest
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stable_audio_tools.errors import MissingExtraError
from stable_audio_tools.training.log_sinks import ResumableCSVLogger, hyperparameters, is_logged_in_to_wandb, make_loggers


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture
def table(tmp_path):
    return tmp_path / "metrics" / "metrics.csv"


@pytest.fixture
def write(tmp_path):
    def go(steps, *, flush=2, finish=True, **values):
        logger = ResumableCSVLogger(str(tmp_path), name="", version="metrics", flush_logs_every_n_steps=flush)
        for step in steps:
            logger.log_metrics({"loss": step / 2, **values}, step)
        if finish:
            logger.finalize("success")

    return go


def test_a_resumed_run_goes_on_with_its_table(write, table):
    write(range(3))
    write(range(3, 6))
    assert [(int(row["step"]), float(row["loss"])) for row in rows_of(table)] == [(step, step / 2) for step in range(6)]


def test_new_columns_join_old_ones(write, table):
    write(range(2))
    write(range(2, 4), val=7.0)
    assert [row["val"] for row in rows_of(table)] == ["", "", "7.0", "7.0"]


def test_what_a_killed_run_wrote_after_its_checkpoint_is_replaced(write, table):
    write(range(8), finish=False)
    assert len(rows_of(table)) == 8
    table.write_bytes(table.read_bytes()[:-2])  # and its last row may be half of one
    write(range(5, 9))
    assert [int(row["step"]) for row in rows_of(table)] == list(range(9))


def test_several_rows_of_a_step_stay(write, table, tmp_path):
    write(range(3))
    logger = ResumableCSVLogger(str(tmp_path), name="", version="metrics")
    logger.log_metrics({"loss": 1.5}, 3)
    logger.log_metrics({"val": 1.0}, 3)
    logger.finalize("success")
    assert [int(row["step"]) for row in rows_of(table)] == [0, 1, 2, 3, 3]


def test_a_run_without_rows_leaves_the_old_ones(write, table):
    write(range(3))
    write([])
    assert len(rows_of(table)) == 3


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("auto", ["TensorBoardLogger", "ResumableCSVLogger"]),
        ("tensorboard", ["TensorBoardLogger", "ResumableCSVLogger"]),
        ("csv", ["ResumableCSVLogger"]),
        ("none", []),
    ],
)
def test_loggers_by_name(tmp_path, monkeypatch, name, kinds):
    monkeypatch.setattr("stable_audio_tools.training.log_sinks.is_logged_in_to_wandb", lambda: False)
    assert [type(logger).__name__ for logger in make_loggers(name, folder=tmp_path, project="p", run_id="r")] == kinds


@pytest.mark.parametrize(("name", "package"), [("wandb", "wandb"), ("comet", "comet_ml")])
def test_services_that_are_not_installed_say_what_to_install(tmp_path, name, package):
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(MissingExtraError, match=rf"stable-audio-tools\[{name}\]"):
        make_loggers(name, folder=tmp_path, project="p", run_id="r")


def test_nobody_is_asked_to_log_in(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert not is_logged_in_to_wandb()
    (tmp_path / ".netrc").write_text("machine api.wandb.ai login user password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    assert is_logged_in_to_wandb()
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert not is_logged_in_to_wandb()


def test_a_run_writes_curves_and_demos_for_tensorboard(train_briefly, tiny_diffusion):
    result = train_briefly(tiny_diffusion(), logger="tensorboard", demos=True, max_steps=5)
    events = EventAccumulator(str(result.folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    assert tags["audio"] == ["demo_cfg_1"] and tags["images"] == ["demo_cfg_1_melspec"]
    assert {"train/loss", "train/lr", "train/std_data"} <= set(tags["scalars"]) and "loss" not in tags["scalars"]
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    rows = rows_of(result.folder / "metrics" / "metrics.csv")
    table = [(int(row["step"]), float(row["train/loss"])) for row in rows if row["train/loss"]]
    assert [step for step, _ in curve] == [step for step, _ in table] == list(range(5))
    assert [value for _, value in curve] == pytest.approx([value for _, value in table], rel=1e-6)


def test_clips_reach_tensorboard_as_they_are(tmp_path):
    from stable_audio_tools.training.log_sinks import LogSink

    logger = TensorBoardLogger(str(tmp_path), name="", version="t")
    audio = torch.stack([torch.linspace(-1, 1, 800), torch.linspace(-1, 1, 800)])
    LogSink([logger]).log_audio("clip", tmp_path / "none.wav", audio, 8000, 3)
    logger.finalize("success")
    events = EventAccumulator(str(tmp_path / "t"))
    events.Reload()
    (event,) = events.Audio("clip")
    assert (event.step, event.sample_rate, event.length_frames) == (3, 8000, 800)


def test_hyperparameters_are_flat_and_plain():
    config = {"model": {"io_channels": 64, "strides": [2, 4], "name": None}, "use_ema": True}
    assert hyperparameters(config) == {"model.io_channels": 64, "model.strides": "[2, 4]", "model.name": "None", "use_ema": True}
