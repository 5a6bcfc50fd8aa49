"""Which checkpoints a run leaves."""

import os
import signal

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.checkpoint import read_checkpoint
from stable_audio_tools.errors import CheckpointError
from stable_audio_tools.training.checkpointing import AtomicCheckpointIO, find_checkpoints


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
    class Fail(pl.Callback):
        def on_train_batch_end(self, *args):
            raise KeyError("broken")

    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError, match="broken"):
        train_briefly(tiny_diffusion(), callbacks=[Fail()])
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


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
