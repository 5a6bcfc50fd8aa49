"""Training a conditional diffusion model: what is trained, what is averaged, what counts."""

import csv

import pytest
import torch

from stable_audio_tools.checkpoint import weights_hash
from stable_audio_tools.errors import DataError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_training_wrapper_from_config


@pytest.fixture
def wrap(tiny_diffusion):
    def make(pretransform=True, **training):
        config = tiny_diffusion(pretransform, **training)
        torch.manual_seed(0)
        return create_training_wrapper_from_config(config, create_model_from_config(config))

    return make


def test_everything_but_the_pretransform_learns(train_briefly, tiny_diffusion):
    config = tiny_diffusion()
    torch.manual_seed(0)
    short, longer = train_briefly(config, max_steps=1).wrapper, train_briefly(config, max_steps=6).wrapper
    before, after = short.diffusion.state_dict(), longer.diffusion.state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"model", "conditioner"}
    assert not longer.diffusion.pretransform.training and longer.diffusion.model.training


def test_the_average_covers_the_backbone_and_lags_behind(train_briefly, tiny_diffusion):
    wrapper = train_briefly(tiny_diffusion(), max_steps=6).wrapper
    assert int(wrapper.ema.step) == 6, "one update per step"
    online, averaged = wrapper.diffusion.model.state_dict(), wrapper.ema.ema_model.state_dict()
    assert online.keys() == averaged.keys()
    assert any(not torch.equal(online[key], averaged[key]) for key in online)
    without = train_briefly(tiny_diffusion(use_ema=False)).wrapper
    assert without.ema is None and not any("ema" in key for key in without.state_dict())


def test_averaged_lends_the_average_and_puts_everything_back(wrap):
    wrapper = wrap()
    wrapper.train()
    online = wrapper.diffusion.model
    with wrapper.averaged() as model:
        assert model is wrapper.diffusion and model.model is wrapper.diffusion_ema.ema_model
        assert not any(module.training for module in model.modules())
    assert wrapper.diffusion.model is online and online.training and wrapper.diffusion.conditioner.training
    assert not wrapper.diffusion.pretransform.training and not wrapper.diffusion_ema.ema_model.training

    def fail():
        with wrapper.averaged():
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert wrapper.diffusion.model is online and online.training
    plain = wrap(use_ema=False)
    with plain.averaged() as model:
        assert model.model is plain.diffusion.model and not model.training


def test_state_dict_layout_is_the_published_one(wrap):
    tops = {".".join(key.split(".")[:2]) for key in wrap().state_dict()}
    assert tops == {
        "diffusion.model", "diffusion.conditioner", "diffusion.pretransform",
        "diffusion_ema.initted", "diffusion_ema.step", "diffusion_ema.ema_model",
    }  # fmt: skip


def test_optimizer_and_schedule_as_configured(wrap):
    block = {
        "optimizer": {"type": "SGD", "config": {"lr": 0.5}},
        "scheduler": {"type": "InverseLR", "config": {"warmup": 0.5, "inv_gamma": 1e9}},
    }
    (optimizer,), (schedule,) = wrap(optimizer_configs={"diffusion": block}).configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD) and schedule["interval"] == "step"
    assert optimizer.param_groups[0]["lr"] == 0.25
    default = wrap().configure_optimizers()
    assert isinstance(default, torch.optim.AdamW) and default.param_groups[0]["lr"] == 1e-3


def test_encoded_data_are_divided_by_the_pretransforms_scale(wrap):
    wrapper = wrap(pre_encoded=True)
    wrapper.diffusion.pretransform.scale = 4.0
    latents = torch.randn(2, 4, 8)
    torch.testing.assert_close(wrapper.latents_of(latents), latents / 4)


def test_data_of_the_wrong_kind_are_refused(wrap):
    with pytest.raises(DataError) as caught:
        wrap().latents_of(torch.zeros(2, 4, 64))
    assert str(caught.value) == (
        "the model expects audio (pre_encoded is false) with 1 channels, but the dataset gives 4; these look like latents: set "
        '"pre_encoded": true in training'
    )
    with pytest.raises(
        DataError, match=r"^the model expects latents \(pre_encoded is true\) with 4 channels, but the dataset gives 1; these look like "
    ):
        wrap(pre_encoded=True).latents_of(torch.zeros(2, 1, 64))


def test_loss_mask_is_resized_to_the_latents(wrap):
    masks = [torch.ones(1024), (torch.arange(1024) < 512).float()]
    metadata = [{"padding_mask": mask} for mask in masks]
    mask = wrap(mask_padding=True)._loss_mask(metadata, 64)
    assert mask.tolist() == [[True] * 64, [True] * 32 + [False] * 32]
    assert torch.equal(mask, wrap(mask_padding=True)._loss_mask([{"padding_mask": [mask]} for mask in masks], 64))
    assert wrap()._loss_mask(metadata, 64) is None
    assert wrap(mask_padding=True, mask_padding_dropout=1.0)._loss_mask(metadata, 64) is None


def test_a_mask_that_the_data_lack_is_named(wrap):
    with pytest.raises(DataError, match=r"^training\.mask_padding needs a 'padding_mask' in the metadata of every item"):
        wrap(mask_padding=True)._loss_mask([{"padding_mask": torch.ones(8)}, {}], 4)


def test_padding_in_the_data_does_not_change_the_loss(wrap):
    """Without a pretransform positions stay apart up to the network, so compare what is computed from the same noise."""
    wrapper = wrap(pretransform=False, mask_padding=True, cfg_dropout_prob=0.0)
    wrapper.log_dict = wrapper.log = lambda *args, **kwargs: None
    wrapper._trainer = type("Trainer", (), {"optimizers": [], "loggers": []})()
    audio = torch.randn(1, 1, 128) * 0.1
    meta = {"prompt": "a", "seconds_start": 0, "seconds_total": 1}

    def loss(mask, noise_in_padding):
        torch.manual_seed(1)
        wrapper.timestep_sampler = lambda batch, device: torch.full((batch,), 0.5)
        changed = audio.clone()
        changed[..., 64:] += noise_in_padding
        return float(wrapper.training_step((changed, [{**meta, "padding_mask": mask}]), 0).detach())

    half = (torch.arange(128) < 64).float()
    # The DiT starts as the identity on noise (its output projections are zero), so its prediction at a position depends on that only.
    assert loss(half, 5.0) == pytest.approx(loss(half, 0.0), rel=1e-3)
    assert loss(torch.ones(128), 5.0) > 2 * loss(torch.ones(128), 0.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_shot_items_are_pure_noise(train_briefly, tiny_diffusion, monkeypatch, share):
    times = []
    import stable_audio_tools.training.diffusion.cond as module

    original = module.diffusion_loss

    def loss(model, latents, t, *args, **kwargs):
        times.append(t)
        return original(model, latents, t, *args, **kwargs)

    monkeypatch.setattr(module, "diffusion_loss", loss)
    train_briefly(tiny_diffusion(p_one_shot=share))
    drawn = torch.cat(times)
    assert bool((drawn == 1).all()) if share else bool((drawn < 1).all())


def test_losses_are_logged_by_time_where_there_was_one(train_briefly, tiny_diffusion, monkeypatch):
    from stable_audio_tools.training.diffusion import cond as module

    times, original = [], module.diffusion_loss

    def loss(model, latents, t, *args, **options):
        times.append({f"model/loss_all_{int(10 * value) / 10:.1f}" for value in t.tolist()})
        return original(model, latents, t, *args, **options)

    monkeypatch.setattr(module, "diffusion_loss", loss)
    run = train_briefly(tiny_diffusion(), max_steps=10, batch_size=5, logger="csv")
    with (run.folder / "metrics" / "metrics.csv").open(newline="") as file:
        rows = [{key for key, value in row.items() if value} for row in csv.DictReader(file)]
    by_time = [row - {"step"} for row in rows if any(key.startswith("model/loss_all_") for key in row)]
    assert by_time == times[-10:] and len(set.union(*by_time)) == 10
    assert sum({"train/loss", "train/mse_loss", "train/std_data", "train/lr"} <= row for row in rows) == 10


def test_validation_repeats_its_numbers(train_briefly, tiny_diffusion, noises):
    import pytorch_lightning as pl

    seen = []

    class Watch(pl.Callback):
        def on_validation_end(self, trainer, *args):
            seen.append({key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("val/")})

    frozen = {"diffusion": {"optimizer": {"type": "SGD", "config": {"lr": 0.0}}}}
    train_briefly(tiny_diffusion(optimizer_configs=frozen), callbacks=[Watch()], val_dataset_config=noises, val_every=2, max_steps=4)
    assert seen[0] == seen[1], "nothing was learned between them"
    assert set(seen[0]) == {"val/avg_loss", *(f"val/loss_{time}" for time in (0.1, 0.3, 0.5, 0.7, 0.9))}


def test_without_a_conditioner_dropout_nothing_random_is_left_between_equal_runs(train_briefly, tiny_diffusion):
    hashes = {weights_hash(train_briefly(tiny_diffusion(), seed=seed).wrapper.state_dict()) for seed in (1, 1, 2)}
    assert len(hashes) == 2
