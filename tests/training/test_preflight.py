"""What a run says that it will take."""

import re
import shutil
from typing import NamedTuple

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.errors import ConfigError, TrainingError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config, preflight
from stable_audio_tools.training.inventory import describe
from stable_audio_tools.training.memory import Activations, memory_of
from stable_audio_tools.training.preflight import checkpoint_bytes


def numbers(text):
    """Bytes by what they are for."""
    return {name: float(value) * (1e9 if unit == "GB" else 1e6) for name, value, unit in re.findall(r"(\w+) ([\d.]+) ([MG]B)", text)}


def test_the_report_says_what_the_run_takes(train_briefly, tiny_diffusion):
    result = train_briefly(tiny_diffusion(), max_steps=25)
    lines = (result.folder / "report.txt").read_text().splitlines()
    assert lines[0].startswith("ConditionedDiffusionModelWrapper: ") and any(
        re.fullmatch(r"  pretransform: .* M, frozen", line) for line in lines
    )
    (disk,) = (line for line in lines if line.startswith("checkpoints: "))
    assert "; 1 of them, " in disk and " free in " in disk
    actual = result.checkpoint.stat().st_size
    told = numbers(disk.replace("checkpoints: ", "each "))["each"]
    assert actual * 0.5 < told < actual, "the rest is bookkeeping, a large part of so small a model"
    (memory,) = (line for line in lines if line.startswith("memory: "))
    parts = numbers(memory)
    trained = sum(p.numel() for p in result.wrapper.parameters() if p.requires_grad) * 4
    assert parts["gradients"] == pytest.approx(trained, abs=600) and parts["optimizer"] == pytest.approx(2 * trained, abs=600)
    assert parts["average"] > 0 and parts["activations"] > 0
    assert re.fullmatch(r"[\d.e-]+ s per step; \d+ steps are left: about \d+ s", lines[-1])


def test_activations_are_those_of_the_forward_pass():
    x, weight = torch.randn(10, 4), torch.nn.Parameter(torch.randn(4, 6))
    with Activations() as counted:
        loss = (x @ weight).exp().sum()
        with torch.no_grad():
            torch.randn(1000).sum()  # is gone before the backward pass
        view = weight.T[:2]
    kept = 10 * 6 + 1  # the exponential, which its gradient needs, and the sum
    assert counted.num_bytes == kept * 4 and counted.most == (kept + 1000 + 1) * 4
    del loss
    assert counted.num_bytes == 0 and view.shape == (2, 4)


@pytest.mark.parametrize(("name", "factor"), [("AdamW", 2), ("Lion", 1), ("SGD", 0)])
def test_optimizers_keep_what_they_keep(tiny_diffusion, name, factor):
    config = tiny_diffusion(use_ema=False, optimizer_configs={"diffusion": {"optimizer": {"type": name, "config": {"lr": 1e-3}}}})
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    memory = memory_of(wrapper, [wrapper.configure_optimizers()])
    assert memory.optimizer == factor * memory.gradients and memory.average == 0
    assert checkpoint_bytes(wrapper) == memory.weights + memory.optimizer


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_a_run_stops_before_it_begins_if_the_disk_is_too_small(train_briefly, tiny_diffusion, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**7, 9 * 10**6, 10**6))
    message = r"^checkpoints: .* each; 50 of them, .* free in .*: they need .*; keep fewer with --save-top-k"
    with pytest.raises(ConfigError, match=message):
        train_briefly(tiny_diffusion(), max_steps=100, checkpoint_every=2, run_folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert train_briefly(tiny_diffusion(), max_steps=100, checkpoint_every=50, save_top_k=1).step == 100


def test_a_run_stops_before_its_first_step_if_memory_is_too_small(train_briefly, tiny_diffusion, monkeypatch):
    monkeypatch.setattr(preflight, "available_memory", lambda device: (10**5, "this toy"))
    with pytest.raises(
        ConfigError, match=r"^memory: .* of 0\.100 MB that this toy has for this run: it will not fit; try a smaller --batch"
    ):
        train_briefly(tiny_diffusion())
    assert train_briefly(tiny_diffusion(), force=True).step == 3


def test_running_out_of_memory_says_what_to_try(train_briefly, tiny_diffusion):
    import pytorch_lightning as pl

    class Full(pl.Callback):
        def on_before_backward(self, *args):
            raise torch.OutOfMemoryError("tried to allocate 2.00 GiB")

    with pytest.raises(TrainingError, match=r"^step 0: the device has no memory left; try a smaller --batch-size .*2\.00 GiB\)$"):
        train_briefly(tiny_diffusion(), callbacks=[Full()])


def test_players_beside_the_model_are_told(tiny_autoencoder, tiny_arc):
    def lines(config):
        model = create_model_from_config(config)
        return [
            line.split(":")[0] + line.rpartition(",")[2] for line in describe(model, create_training_wrapper_from_config(config, model))
        ]

    assert "  beside the model, discriminator trained" in lines(tiny_autoencoder(adversary=True))
    found = lines(tiny_arc({"use_model_as_teacher": True}))
    assert "  beside the model, teacher_model frozen" in found and "  beside the model, discriminator_head trained" in found


def test_gradients_of_the_player_that_rests_count(tiny_arc):
    config = tiny_arc()
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    optimizers = wrapper.configure_optimizers()
    whole = memory_of(wrapper, optimizers)
    wrapper.discriminator.requires_grad_(False)  # as in the generator's turn
    assert memory_of(wrapper, optimizers) == whole and 2 * whole.gradients == whole.optimizer


def test_an_adapter_is_no_part_of_the_model(train_briefly, tiny_diffusion):
    plain = create_model_from_config(tiny_diffusion())
    result = train_briefly(tiny_diffusion(adapter={"type": "lora", "config": {"rank": 64}}))
    report = (result.folder / "report.txt").read_text()
    own, added = (float(number) for number in re.search(r"^\w+: ([\d.]+) M parameters, and ([\d.]+) M of an adapter\n", report).groups())
    size = sum(p.numel() for p in result.wrapper.parameters() if p.requires_grad)
    assert own == pytest.approx(sum(p.numel() for p in plain.parameters()) / 1e6, abs=0.006) and added == pytest.approx(
        size / 1e6, abs=0.001
    )
    assert re.search(r"^  model: [\d.]+ M, frozen, and [\d.]+ M of an adapter, trained$", report, re.MULTILINE)
    assert f"  EMA copy: {size / 1e6:.2f} M\n" in report, "the rest of it is the model's"
    parts = numbers(report[report.index("memory: ") :])
    assert parts["average"] == pytest.approx(4 * size, rel=0.5) and parts["gradients"] == pytest.approx(4 * size, rel=0.1)
    told = numbers(report.replace("checkpoints: ", "each "))["each"]
    assert told < result.checkpoint.stat().st_size < 2 * told


def test_without_an_end_the_time_of_a_pass_is_told(train_briefly, tiny_uncond):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            trainer.should_stop = trainer.global_step == 22

    run = train_briefly(tiny_uncond(), max_steps=-1, callbacks=[Stop()])
    assert re.search(r"s per step; a pass takes about \d+ s", (run.folder / "report.txt").read_text())


@pytest.mark.parametrize("name", ["tiny_uncond", "tiny_autoencoder"])
def test_the_bar_counts_batches(request, train_briefly, name):
    """Five per pass, two of which make a step."""

    class Totals(pl.Callback):
        def __init__(self):
            self.seen = []

        def on_train_batch_end(self, trainer, *args):
            self.seen.append(trainer.progress_bar_callback.train_progress_bar.total)

    totals, again = Totals(), Totals()
    config = request.getfixturevalue(name)()
    first = train_briefly(config, max_steps=2, accum_batches=2, show_progress=True, callbacks=[totals])
    assert totals.seen == [4, 4, 4, 4]
    train_briefly(config, max_steps=3, accum_batches=2, show_progress=True, callbacks=[again], ckpt_path=first.checkpoint)
    assert again.seen == [5], "the last step of a pass has one batch"
