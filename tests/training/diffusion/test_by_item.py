"""Random numbers that belong to items: validation, and accumulated gradients, do not depend on how items are put into batches."""

import csv

import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config
from stable_audio_tools.training.randomness import item_seeds

ITEMS = [
    (torch.randn(1, 1024, generator=torch.Generator().manual_seed(index)) * 0.3, {"path": f"{index}.wav", "prompt": str(index)})
    for index in range(8)
]


def batches(size):
    for start in range(0, len(ITEMS), size):
        chosen = ITEMS[start : start + size]
        yield (
            torch.stack([audio for audio, _ in chosen]),
            [{**meta, "seconds_start": 0, "seconds_total": 1, "padding_mask": torch.ones(1024)} for _, meta in chosen],
        )


def test_seeds_follow_the_item_not_its_place():
    a, b = {"relpath": "a.wav", "path": "/x/a.wav", "seconds_start": 0}, {"relpath": "b.wav", "path": "/x/b.wav", "seconds_start": 0}
    assert item_seeds([a, b]) == item_seeds([b, a])[::-1]
    assert item_seeds([a]) == item_seeds([{**a, "path": "/y/a.wav", "prompt": "other"}], position=5)
    assert item_seeds([a]) != item_seeds([{**a, "seconds_start": 3}])
    assert item_seeds([a], 0) != item_seeds([a], 1)
    assert len(set(item_seeds([{}, {}]))) == 2 and item_seeds([{}], position=1) == item_seeds([{}, {}])[1:]


def gradient(config, size):
    """Mean gradient over all items, in batches of a size."""
    torch.manual_seed(0)
    wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
    wrapper.log_dict = wrapper.log = lambda *args, **kwargs: None
    wrapper._trainer = type("Trainer", (), {"optimizers": [], "current_epoch": 2, "loggers": []})()
    wrapper.train()
    torch.manual_seed(size)  # whatever else is drawn differs
    made = [*batches(size)]
    for index, batch in enumerate(made):
        (wrapper.training_step(batch, index) / len(made)).backward()
    return torch.cat([parameter.grad.flatten() for parameter in wrapper.model.parameters() if parameter.grad is not None])


LOSSES = [{}, {"p_one_shot": 0.5}, {"mask_loss_weight": 0.0, "loss_normalization": "sample"}]


@pytest.mark.parametrize("training", LOSSES, ids=["plain", "one-shot", "normalised"])
def test_four_batches_of_two_are_one_of_eight(tiny_diffusion, training):
    """With the VAE's own noise, which belongs to items too."""
    by_item, by_batch = (
        [gradient(tiny_diffusion(noise_by_item=by_item, cfg_dropout_prob=0.0, **training), size) for size in (2, 8)]
        for by_item in (True, False)
    )
    scale = float(by_item[0].abs().max())
    torch.testing.assert_close(*by_item, atol=1e-5 * scale, rtol=1e-4)
    assert float((by_batch[0] - by_batch[1]).abs().max()) > 0.01 * scale


@pytest.mark.parametrize("kind", ["tiny_diffusion", "tiny_uncond"])
def test_a_run_that_accumulates_is_one_with_large_batches(request, train_briefly, kind):
    recipe = {"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 0.1}}}}
    more = {"cfg_dropout_prob": 0.0} if kind == "tiny_diffusion" else {}
    config = request.getfixturevalue(kind)(noise_by_item=True, optimizer_configs=recipe, **more)
    small = train_briefly(config, batch_size=2, accum_batches=4, max_steps=1).wrapper
    large = train_briefly(config, batch_size=8, max_steps=1).wrapper
    other = train_briefly(config, batch_size=2, max_steps=1).wrapper
    for a, b in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)
    distances = [(a - b).detach().abs().max() for a, b in zip(other.parameters(), large.parameters(), strict=True)]
    assert float(torch.stack(distances).max()) > 1e-4


def test_without_conditions_too(tiny_uncond):
    gradients = [gradient(tiny_uncond(noise_by_item=True), size) for size in (2, 8)]
    torch.testing.assert_close(*gradients, atol=1e-5 * float(gradients[0].abs().max()), rtol=1e-4)


def test_inpainting_masks_belong_to_items(tiny_diffusion):
    config = tiny_diffusion(noise_by_item=True, cfg_dropout_prob=0.0)
    del config["training"]["demo"]
    config["model_type"] = "diffusion_cond_inpaint"
    config["model"]["diffusion"]["input_concat_ids"] = ["inpaint_mask", "inpaint_masked_input"]
    config["model"]["diffusion"]["config"]["input_concat_dim"] = 5
    config["training"]["inpainting"] = {"mask_kwargs": {"mask_type_probabilities": [0.5, 0.0, 0.5]}}
    gradients = [gradient(config, size) for size in (2, 8)]
    torch.testing.assert_close(*gradients, atol=1e-5 * float(gradients[0].abs().max()), rtol=1e-4)


def validated(train_briefly, config, noises, size):
    seen = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, *args):
            seen.append({key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")})

    train_briefly(config, callbacks=[Watch()], val_dataset_config=noises, val_every=1, max_steps=1, batch_size=size)
    return seen[0]


@pytest.mark.parametrize("kind", ["tiny_diffusion", "tiny_uncond"])
def test_validation_is_the_same_in_batches_of_any_size(request, train_briefly, noises, kind):
    frozen = {"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 0.0}}}}
    make = request.getfixturevalue(kind)
    config = make(optimizer_configs=frozen) if kind == "tiny_diffusion" else make(learning_rate=0.0)
    one, five = (validated(train_briefly, config, noises, size) for size in (1, 5))
    assert one.keys() == five.keys() and len(one) == 6
    assert one == pytest.approx(five, rel=1e-5)
    assert len(set(one.values())) == 6


def test_logs_are_means_over_the_batches_between(train_briefly, tiny_diffusion):
    seen = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, *args):
            seen.append((float(trainer.callback_metrics["loss"]), {k: float(v) for k, v in trainer.callback_metrics.items()}))

    run = train_briefly(tiny_diffusion(log_every_n_steps=3), callbacks=[Watch()], max_steps=4, logger="csv")
    assert "train/loss" not in seen[1][1]
    assert seen[2][1]["train/loss"] == pytest.approx(sum(loss for loss, _ in seen[:3]) / 3)
    assert seen[3][1]["train/loss"] == seen[2][1]["train/loss"]
    with (run.folder / "metrics" / "metrics.csv").open(newline="") as file:
        by_time = [row["step"] for row in csv.DictReader(file) if any(row[key] for key in row if key.startswith("model/loss_all_"))]
    assert by_time == ["2"]
