"""A loss that is not finite: named, and dealt with as asked."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.strategies import SingleDeviceStrategy

from stable_audio_tools.errors import TrainingError
from stable_audio_tools.training import safety
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.safety import are_finite


class Spoil(pl.Callback):
    """Makes the audio of some batches not a number, or the weights before one."""

    def __init__(self, *batches, weights=False):
        self.batches, self.weights, self.count, self.seen = batches, weights, 0, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append([p.detach().clone() for p in pl_module.model.parameters()])
        if self.count in self.batches:
            self.named = [item["path"] for item in batch[1]]
            if self.weights:
                with torch.no_grad():
                    next(p for p in pl_module.model.parameters() if p.requires_grad).fill_(float("nan"))
            else:
                batch[0].fill_(float("nan"))
        self.count += 1


@pytest.mark.parametrize(
    ("model", "term"), [("tiny_autoencoder", "train/l1_time_loss is nan"), ("tiny_diffusion", "train/mse_loss is nan")]
)
def test_a_run_stops_and_names_the_batch_and_the_terms(request, train_briefly, model, term):
    spoil = Spoil(1)
    with pytest.raises(TrainingError) as told:
        train_briefly(request.getfixturevalue(model)(), callbacks=[spoil])
    assert str(told.value).startswith("step 1: the loss is nan (") and term in str(told.value)
    assert f"its batch: {spoil.named[0]}, {spoil.named[1]}; the weights are finite still" in str(told.value)
    assert "--on-nan skip" in str(told.value) and spoil.count == 2


@pytest.mark.parametrize("name", ["tiny_autoencoder", "adversary", "tiny_diffusion"])
def test_a_batch_is_skipped_if_asked_and_changes_nothing(request, train_briefly, caplog, name):
    adversary = {"adversary": True} if name == "adversary" else {}
    config = request.getfixturevalue("tiny_autoencoder" if adversary else name)(**adversary)
    spoil = Spoil(2)
    result = train_briefly(config, max_steps=4, on_nan="skip", callbacks=[spoil])
    assert all(torch.equal(a, b) for a, b in zip(spoil.seen[2], spoil.seen[3], strict=True)), "as before the batch"
    assert all(bool(torch.isfinite(value).all()) for value in result.wrapper.state_dict().values())
    assert caplog.text.count("skipped it (1 skipped so far)") == 1 and spoil.named[0] in caplog.text


@pytest.mark.parametrize("bad", [2, 3])  # of the second step's batches 2 and 3
def test_the_rest_of_an_adversarial_step_counts_if_one_of_its_batches_is_skipped(train_briefly, tiny_autoencoder, bad):
    spoil = Spoil(bad)
    result = train_briefly(tiny_autoencoder(adversary=True), max_steps=3, accum_batches=2, on_nan="skip", callbacks=[spoil])
    assert result.step == 3 and spoil.count == 5, "a pass of five batches: three steps"


def test_weights_that_are_broken_are_not_skipped(train_briefly, tiny_diffusion):
    with pytest.raises(TrainingError, match=r"the weights are not finite any more \(diffusion\..*\), so start again, and try a lower"):
        train_briefly(tiny_diffusion(), on_nan="skip", callbacks=[Spoil(1, weights=True)])


def test_batches_that_are_all_bad_are_not_skipped_forever(train_briefly, tiny_diffusion, caplog):
    with pytest.raises(TrainingError, match=r"that makes 21 batches in a row, so it is not the data"):
        train_briefly(tiny_diffusion(), max_steps=99, on_nan="skip", callbacks=[Spoil(*range(1, 99))])
    assert "step 21 is not saved: its weights are not worth keeping" in caplog.text


def test_a_run_goes_back_to_its_last_checkpoint_if_asked(train_briefly, tiny_diffusion, caplog):
    spoil = Spoil(3, weights=True)
    result = train_briefly(tiny_diffusion(), max_steps=6, checkpoint_every=2, on_nan="rollback", callbacks=[spoil])
    assert all(torch.equal(a, b) for a, b in zip(spoil.seen[2], spoil.seen[4], strict=True)), "those of step 2"
    assert "went back to the weights and optimizer states of" in caplog.text and "epoch=0-step=2.ckpt" in caplog.text
    assert all(bool(torch.isfinite(value).all()) for value in result.wrapper.state_dict().values())
    with pytest.raises(TrainingError, match="--on-nan rollback has no checkpoint of this run to go back to yet"):
        train_briefly(tiny_diffusion(), on_nan="rollback", callbacks=[Spoil(0)])
    with pytest.raises(TrainingError, match=r"went back to .*step=8\.ckpt 3 times already"):
        train_briefly(tiny_diffusion(), max_steps=20, checkpoint_every=8, on_nan="rollback", callbacks=[Spoil(9, 10, 11, 12)])


def test_checkpoints_with_broken_weights_are_not_recovered(train_briefly, tiny_diffusion, tmp_path, caplog):
    where = {"save_dir": tmp_path, "name": "mine"}
    first = train_briefly(tiny_diffusion(), max_steps=4, checkpoint_every=2, run_folder=tmp_path / "mine" / "a", **where)
    content = torch.load(first.checkpoint, weights_only=True)
    content["state_dict"]["diffusion.model.model.to_timestep_embed.0.bias"].fill_(float("inf"))
    torch.save(content, first.checkpoint)
    caplog.set_level("INFO", "stable_audio_tools")
    train_briefly(tiny_diffusion(), max_steps=5, recover=True, **where)
    assert "its weights are not finite (diffusion.model.model.to_timestep_embed.0.bias)" in caplog.text
    assert f"recovering from {find_checkpoints(first.folder)[0]}" in caplog.text


class SpoilGradients(pl.Callback):
    """Makes the gradient of one parameter not finite in some batches, while the loss is."""

    def __init__(self, *batches, value=float("nan"), part="model"):
        self.batches, self.value, self.part, self.count, self.seen = batches, value, part, -1, []

    def on_train_start(self, trainer, pl_module):
        part = getattr(pl_module, self.part)
        self.name, parameter = next((n, p) for n, p in part.named_parameters() if p.requires_grad and p.dim() > 1)
        parameter.register_hook(lambda grad: grad * self.value if self.count in self.batches else grad)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.count += 1
        self.named = [item["path"] for item in batch[1]]
        self.seen.append([p.detach().clone() for p in pl_module.model.parameters()])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_stop_a_run_and_are_named(train_briefly, tiny_diffusion, value):
    spoil = SpoilGradients(1, value=value)
    with pytest.raises(TrainingError) as told:
        train_briefly(tiny_diffusion(), callbacks=[spoil])
    message = str(told.value)
    assert message.startswith(f"step 1: the loss is finite, but the gradient of a parameter is not: diffusion.{spoil.name}; its batch: ")
    assert f"{spoil.named[0]}, {spoil.named[1]}; the weights are finite still" in message


@pytest.mark.parametrize("name", ["tiny_autoencoder", "adversary", "tiny_diffusion"])
def test_a_step_with_such_gradients_is_skipped_if_asked(request, train_briefly, caplog, name):
    adversary = {"adversary": True} if name == "adversary" else {}
    config = request.getfixturevalue("tiny_autoencoder" if adversary else name)(**adversary)
    spoil = SpoilGradients(2)
    result = train_briefly(config, max_steps=4, on_nan="skip", callbacks=[spoil])
    assert all(torch.equal(a, b) for a, b in zip(spoil.seen[2], spoil.seen[3], strict=True)), "as before the step"
    assert not all(torch.equal(a, b) for a, b in zip(spoil.seen[0], spoil.seen[2], strict=True))
    assert all(bool(torch.isfinite(value).all()) for value in result.wrapper.state_dict().values())
    assert caplog.text.count("skipped it (1 skipped so far)") == 1


def test_such_gradients_in_every_step_are_not_skipped_forever_and_all_batches_of_a_step_are_named(train_briefly, tiny_diffusion, caplog):
    with pytest.raises(TrainingError, match="that makes 21 batches in a row, so it is not the data"):
        train_briefly(tiny_diffusion(), max_steps=99, on_nan="skip", callbacks=[SpoilGradients(*range(1, 99))])
    caplog.clear()
    train_briefly(tiny_diffusion(), max_steps=2, on_nan="skip", accum_batches=2, callbacks=[SpoilGradients(1)])
    assert caplog.text.count(".wav") == 4, "two batches of two"


def test_a_scaler_of_gradients_may_leave_out_steps_but_not_all(train_briefly, tiny_diffusion, caplog):
    class Scaled(SpoilGradients):
        def on_train_start(self, trainer, pl_module):
            super().on_train_start(trainer, pl_module)
            plugin = MixedPrecision("bf16-mixed", "cpu")
            plugin.scaler = torch.amp.GradScaler("cpu")  # as 16-mixed has one on a GPU
            trainer.strategy.precision_plugin = plugin

    train_briefly(tiny_diffusion(), max_steps=4, callbacks=[Scaled(0)])
    assert "finite" not in caplog.text
    with pytest.raises(TrainingError, match="that makes 21 batches in a row"):
        train_briefly(tiny_diffusion(), max_steps=99, callbacks=[Scaled(*range(99))])


def test_a_run_goes_back_for_gradients_too(train_briefly, tiny_diffusion, caplog):
    spoil = SpoilGradients(3)
    train_briefly(tiny_diffusion(), max_steps=6, checkpoint_every=2, on_nan="rollback", callbacks=[spoil])
    assert all(torch.equal(a, b) for a, b in zip(spoil.seen[2], spoil.seen[4], strict=True)), "those of step 2"
    assert "went back to the weights and optimizer states of" in caplog.text


def test_a_run_that_trains_an_adapter_goes_back_too(train_briefly, tiny_diffusion, caplog):
    spoil = SpoilGradients(3)
    config = tiny_diffusion(adapter={"type": "lora", "config": {"rank": 2}})
    result = train_briefly(config, max_steps=6, checkpoint_every=2, on_nan="rollback", callbacks=[spoil])
    assert all(torch.equal(a, b) for a, b in zip(spoil.seen[2], spoil.seen[4], strict=True)), "those of step 2"
    assert not all(torch.equal(a, b) for a, b in zip(spoil.seen[2], spoil.seen[3], strict=True))
    assert result.step == 6 and "went back to the weights and optimizer states of" in caplog.text


def test_gradients_of_one_player_are_not_skipped_forever_while_those_of_the_other_are_fine(train_briefly, tiny_autoencoder):
    spoil = SpoilGradients(*range(99), part="discriminator")
    with pytest.raises(TrainingError, match=r"but the gradient of a parameter is not: discriminator\..* makes 21 batches in a row"):
        train_briefly(tiny_autoencoder(adversary=True), max_steps=99, on_nan="skip", callbacks=[spoil])
    assert 40 <= spoil.count <= 42, "every other batch is the adversary's"


def test_what_is_learnt_after_going_back_is_worth_keeping(train_briefly, tiny_diffusion, caplog):
    class Fail(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            if trainer.global_step == 5:
                raise KeyError("broken")

    spoil = Spoil(3, weights=True)
    with pytest.raises(KeyError):
        train_briefly(tiny_diffusion(), max_steps=9, checkpoint_every=2, on_nan="rollback", callbacks=[spoil, Fail()])
    assert "went back to" in caplog.text and "saved step 5 before giving up: " in caplog.text


def test_weights_that_are_broken_in_another_process_are_not_skipped_either(train_briefly, tiny_diffusion, monkeypatch):
    monkeypatch.setattr(safety, "are_alike", lambda trainer: False)
    monkeypatch.setattr(safety, "_is_anywhere", lambda wrapper, is_bad: True)  # what another process would say
    with pytest.raises(TrainingError, match=r"^the loss of another .* not finite any more \(those of another process\)"):
        train_briefly(tiny_diffusion(), on_nan="skip")


def test_gradients_that_a_strategy_keeps_to_itself_are_not_looked_at(train_briefly, tiny_diffusion, monkeypatch, caplog):
    monkeypatch.setattr(safety, "DeepSpeedStrategy", SingleDeviceStrategy)  # which needs a package and a GPU
    asked = []
    monkeypatch.setattr(safety, "_is_anywhere", lambda wrapper, is_bad: asked.append(is_bad) or is_bad)
    with pytest.raises(TrainingError, match=r"^step 2: the loss is nan .* the weights are not finite any more"):
        train_briefly(tiny_diffusion(), on_nan="skip", callbacks=[SpoilGradients(1)])
    assert asked == [False, False, True], "a question per batch, about its loss"


def test_tensors_are_finite_or_not():
    fine = [torch.ones(3), torch.full((2, 2), 3e38), torch.zeros((), dtype=torch.bfloat16)]
    assert are_finite(fine)
    assert not any(are_finite([*fine, torch.tensor([1.0, bad])]) for bad in (float("nan"), float("inf"), -float("inf")))


@pytest.mark.slow
def test_two_processes_stop_together_and_save_what_they_have(scripts, tiny_uncond, noises):
    run = scripts(tiny_uncond(learning_rate=1e30), noises["datasets"][0]["path"], "--max-steps", "9", "--devices", "2", "--strategy", "ddp")
    assert run.start().wait(timeout=300) == 1
    assert "step 1: the loss is " in run.log() and "saved step 1 before giving up: " in run.log(), run.log()
    (saved,) = find_checkpoints(run.folder)
    assert saved.name == "epoch=0-step=1.ckpt"


SHARDED = """import json
import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy, StrategyRegistry
from stable_audio_tools.training.run import TrainOptions, train

class Apart(DDPStrategy):
    "Processes whose weights may differ, as those of FSDP."

class Spoil(pl.Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 1 and trainer.global_rank == 1:
            next(p for p in pl_module.model.parameters() if p.requires_grad).data.fill_(float("nan"))

StrategyRegistry.register("apart", Apart)
train(TrainOptions(
    model_config="model.json", dataset_config="data.json", run_folder="runs/x/0", batch_size=2, num_workers=0, max_steps=9, demos=False,
    devices=2, accelerator="cpu", strategy="apart", on_nan="skip", logger="none", show_progress=False, callbacks=[Spoil()],
))
"""


@pytest.mark.slow
def test_two_processes_give_up_together_if_the_weights_of_one_are_broken(scripts, tiny_uncond, noises):
    run = scripts(tiny_uncond(), noises["datasets"][0]["path"])
    (run.folder / "sharded.py").write_text(SHARDED)
    assert run.start(program=run.folder / "sharded.py").wait(timeout=120) == 1, run.log()
    assert "the weights are not finite any more (those of another process)" in run.log(), run.log()
    assert "the weights are not finite any more (diffusion." in run.log() and "skipped it" not in run.log(), run.log()
