"""Which checkpoints a run leaves."""

import json
import os
import signal

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import read_checkpoint, weights_hash
from stable_audio_tools.errors import CheckpointError, ConfigError, DataError
from stable_audio_tools.training.checkpointing import AtomicCheckpointIO, CheckpointCallback, find_checkpoints, verify


def steps(folder):
    return [int(path.stem.rpartition("=")[2]) for path in find_checkpoints(folder)]


@pytest.mark.parametrize(("keep", "kept"), [(-1, [2, 4, 6, 7]), (1, [7]), (2, [6, 7]), (9, [2, 4, 6, 7])])
def test_every_n_steps_and_the_last_and_no_more_than_asked(train_briefly, tiny_diffusion, keep, kept):
    result = train_briefly(tiny_diffusion(), max_steps=7, checkpoint_every=2, save_top_k=keep)
    assert steps(result.folder) == kept
    assert result.checkpoint == result.folder / "checkpoints" / "epoch=1-step=7.ckpt"
    assert sorted(path.name for path in result.checkpoint.parent.iterdir()) == sorted(path.name for path in find_checkpoints(result.folder))


def test_a_run_resumed_from_an_earlier_checkpoint_keeps_what_it_writes(train_briefly, tiny_diffusion):
    first = train_briefly(tiny_diffusion(), max_steps=6, checkpoint_every=2)
    second = train_briefly(tiny_diffusion(), max_steps=5, checkpoint_every=3, save_top_k=1, ckpt_path=find_checkpoints(first.folder)[0])
    assert second.checkpoint.is_file() and steps(second.folder) == [5]


def test_halves_that_a_killed_run_left_are_removed(train_briefly, tiny_diffusion, tmp_path):
    half, other = tmp_path / "checkpoints" / ".epoch=0-step=9.ckpt.abc.tmp", tmp_path / "checkpoints" / ".other.tmp"
    half.parent.mkdir()
    half.touch()
    other.touch()
    train_briefly(tiny_diffusion(), run_folder=tmp_path)
    assert not half.exists() and other.exists()


def test_nothing_is_written_twice(train_briefly, tiny_diffusion):
    class Count(pl.Callback):
        saved = 0

        def on_save_checkpoint(self, *args):
            self.saved += 1

    count = Count()
    train_briefly(tiny_diffusion(), max_steps=4, checkpoint_every=2, accum_batches=2, callbacks=[count])
    assert count.saved == 2


def test_an_error_in_training_leaves_the_signals_as_they_were(train_briefly, tiny_diffusion):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError, match="broken"):
        train_briefly(tiny_diffusion(), callbacks=[Fail(1)])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


class Fail(pl.Callback):
    """An error in the given batch, counted from 0, or in the validation after it."""

    def __init__(self, batch, *, validation=False, breaks_weights=False):
        self.left, self.validation, self.breaks_weights = batch, validation, breaks_weights

    def on_before_backward(self, trainer, pl_module, loss):
        self._fail(pl_module, not self.validation)

    def on_validation_batch_start(self, trainer, pl_module, *args):
        self._fail(pl_module, self.validation)

    def _fail(self, pl_module, counts):
        self.left -= counts
        if counts and self.left == -1:
            if self.breaks_weights:
                next(pl_module.parameters()).data.fill_(float("nan"))
            raise KeyError("broken")


class Files(pl.Callback):
    """The files of every batch that was used."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append([item["path"] for item in batch[1]])


@pytest.mark.parametrize(("batch", "every"), [(3, 2), (4, 3), (5, 2)])  # within a pass, in its last batch, and in the first one of the next
@pytest.mark.parametrize("name", ["tiny_diffusion", "tiny_autoencoder"])
def test_a_run_that_ends_in_an_error_is_saved_and_goes_on_after_the_batch(request, train_briefly, tmp_path, caplog, name, batch, every):
    config = request.getfixturevalue(name)()
    whole, first, second = Files(), Files(), Files()
    train_briefly(config, max_steps=8, callbacks=[whole])
    with pytest.raises(KeyError, match="broken"):
        train_briefly(config, max_steps=8, run_folder=tmp_path, save_top_k=1, checkpoint_every=every, callbacks=[first, Fail(batch)])
    assert steps(tmp_path) == [batch - 1, batch], "what was good stays"
    assert f"saved step {batch} before giving up: " in caplog.text and "goes on with the batch after the one that failed" in caplog.text
    result = train_briefly(config, max_steps=7, ckpt_path=find_checkpoints(tmp_path)[-1], callbacks=[second])
    assert result.step == 7 and result.folder == tmp_path
    assert first.seen + second.seen == whole.seen[:batch] + whole.seen[batch + 1 :]


@pytest.mark.parametrize("batch", [3, 5])  # within a pass, and the first one of the next
def test_a_batch_that_cannot_be_read_is_read_again_by_the_run_that_goes_on(
    train_briefly, tiny_uncond, write_noises, tmp_path, caplog, batch
):
    sounds, hidden = write_noises(tmp_path / "sounds"), tmp_path / "hidden"
    data = {"dataset_type": "audio_dir", "datasets": [{"id": "sounds", "path": str(sounds)}]}

    class Hide(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch_, batch_idx):
            if trainer.global_step == batch:
                sounds.rename(hidden)

    whole, first, second = Files(), Files(), Files()
    train_briefly(tiny_uncond(), max_steps=8, dataset_config=data, callbacks=[whole])
    options = {"max_steps": 8, "dataset_config": data, "run_folder": tmp_path / "run"}
    with pytest.raises(DataError, match="unreadable"):
        train_briefly(tiny_uncond(), callbacks=[first, Hide()], **options)
    hidden.rename(sounds)
    assert f"saved step {batch} before giving up: " in caplog.text
    assert "goes on with the batch that could not be read, and will fail again if its data are as they are now" in caplog.text
    assert "after the one that failed" not in caplog.text
    train_briefly(tiny_uncond(), callbacks=[second], ckpt_path=find_checkpoints(tmp_path / "run")[-1], **options)
    assert first.seen + second.seen == whole.seen


def test_an_error_in_validation_loses_nothing(train_briefly, tiny_diffusion, noises, tmp_path, caplog):
    options = {"val_dataset_config": noises, "val_every": 3, "max_steps": 6}
    whole = train_briefly(tiny_diffusion(), **options)
    with pytest.raises(KeyError, match="broken"):
        train_briefly(tiny_diffusion(), run_folder=tmp_path, callbacks=[Fail(1, validation=True)], **options)
    assert "goes on with the batch after this validation" in caplog.text
    resumed = train_briefly(tiny_diffusion(), ckpt_path=find_checkpoints(tmp_path)[-1], **options)
    assert weights_hash(resumed.wrapper.state_dict()) == weights_hash(whole.wrapper.state_dict())


def test_broken_weights_are_not_saved(train_briefly, tiny_diffusion, tmp_path):
    with pytest.raises(KeyError, match="broken"):
        train_briefly(tiny_diffusion(), run_folder=tmp_path, callbacks=[Fail(2, breaks_weights=True)])
    assert steps(tmp_path) == []


def test_checkpoints_have_the_documented_contents(train_briefly, tiny_diffusion):
    config = tiny_diffusion()
    extra = read_checkpoint(train_briefly(config).checkpoint).extra
    assert extra["model_config"] == config
    assert extra.keys() >= {"epoch", "global_step", "pytorch-lightning_version", "loops", "callbacks", "optimizer_states", "lr_schedulers"}


def test_find_checkpoints_goes_by_step_and_ignores_other_files(tmp_path):
    others = ("last.ckpt", ".epoch=0-step=3.ckpt.x.tmp", "epoch=0-step=1.txt")
    for name in ("epoch=0-step=10.ckpt", "epoch=1-step=9.ckpt", "a/epoch=9-step=100.ckpt", *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert steps(tmp_path) == [9, 10, 100]
    assert find_checkpoints(tmp_path / "missing") == []


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "epoch=0-step=1.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"state_dict": {"a": torch.ones(2)}}, path)
    with pytest.raises(AttributeError, match="local object"):
        writer.save_checkpoint({"state_dict": {"a": torch.zeros(2)}, "bad": lambda: 0}, path)
    assert torch.equal(writer.load_checkpoint(path)["state_dict"]["a"], torch.ones(2))
    assert os.listdir(tmp_path) == [path.name]


def test_resuming_reads_tensors_and_plain_data_only(tmp_path, train_briefly, tiny_diffusion):
    path = train_briefly(tiny_diffusion()).checkpoint
    content = torch.load(path, weights_only=True)
    evil = tmp_path / "epoch=0-step=3.ckpt"
    torch.save({**content, "evil": pytest.approx(1)}, evil)
    with pytest.raises(CheckpointError, match=r"contains Python objects besides tensors \(.*approx.*\); loading them can run any code"):
        train_briefly(tiny_diffusion(), ckpt_path=evil)


def test_what_reads_back_damaged_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save({"state_dict": {"a": torch.arange(1000.0)}}, path)
    verify(path, "a.ckpt")
    whole = path.read_bytes()
    place = whole.index(torch.arange(1000.0).numpy().tobytes()[400:440])
    for damaged in (whole[:place] + b"\xff" + whole[place + 1 :], whole[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(
            CheckpointError, match=r"^epoch=0-step=1\.ckpt: was written, but reads back damaged \(.*\); is the disk full or"
        ):
            verify(path, "epoch=0-step=1.ckpt")


@pytest.mark.parametrize(("mode", "kept"), [("min", [2, 4]), ("max", [1, 3])])
def test_the_best_checkpoints_are_kept_besides(train_briefly, tiny_autoencoder, noises, monkeypatch, mode, kept):
    values = iter([3.0, 1.0, 4.0, 2.0, float("nan")])
    monkeypatch.setattr(CheckpointCallback, "_monitored", lambda self, metrics: next(values))
    options = {"val_dataset_config": noises, "val_every": 1, "save_best": 2, "monitor_mode": mode, "save_top_k": 1}
    result = train_briefly(tiny_autoencoder(), max_steps=5, **options)
    best = result.folder / "best"
    assert steps(best) == kept and steps(result.folder / "checkpoints") == [5]
    assert json.loads((best / "scores.json").read_text()).keys() == {path.name for path in find_checkpoints(best)}


def test_the_best_goes_by_the_loss_of_validation_and_resumes_exactly(train_briefly, tiny_diffusion, noises):
    options = {"val_dataset_config": noises, "val_every": 2, "max_steps": 6}
    whole = train_briefly(tiny_diffusion(), save_best=9, checkpoint_every=99, **options)
    paths = find_checkpoints(whole.folder / "best")
    assert [steps(whole.folder / "best"), len(json.loads((paths[0].parent / "scores.json").read_text()))] == [[2, 4, 6], 3]
    resumed = train_briefly(tiny_diffusion(), ckpt_path=paths[0], checkpoint_every=99, **options)
    assert resumed.folder == whole.folder
    assert weights_hash(resumed.wrapper.state_dict()) == weights_hash(whole.wrapper.state_dict())


def test_a_monitor_that_is_not_logged_is_refused(train_briefly, tiny_diffusion, noises):
    options = {"val_dataset_config": noises, "val_every": 1, "save_best": 1}
    with pytest.raises(ConfigError, match=r"^--monitor val/los: validation does not log that; it logs val/avg_loss, val/loss_0\.1, "):
        train_briefly(tiny_diffusion(), monitor="val/los", **options)
    with pytest.raises(ConfigError, match=r"^--save-best 1 goes by a number of validation: give --val-dataset-config$"):
        train_briefly(tiny_diffusion(), save_best=1)


def test_schedule_free_runs_save_and_validate_averaged_weights_and_resume_exactly(train_briefly, tiny_diffusion, noises):
    pytest.importorskip("schedulefree")
    optimizer = {"optimizer": {"type": "AdamWScheduleFree", "config": {"lr": 0.01}}}
    config = tiny_diffusion(optimizer_configs={"diffusion": optimizer}, use_ema=False)
    whole = train_briefly(config, max_steps=6, checkpoint_every=3)
    saved = torch.load(find_checkpoints(whole.folder)[0], weights_only=True)
    assert not saved["optimizer_states"][0]["param_groups"][0]["train_mode"]
    resumed = train_briefly(config, max_steps=6, checkpoint_every=3, ckpt_path=find_checkpoints(whole.folder)[0])
    assert weights_hash(resumed.wrapper.state_dict()) == weights_hash(whole.wrapper.state_dict())
