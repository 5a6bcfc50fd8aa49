"""Training unconditional models and diffusion autoencoders: what is learned, averaged, written and heard."""

from pathlib import Path

import pytest
import torch

from stable_audio_tools.audio import load
from stable_audio_tools.checkpoint import kind_of, load_model_weights, read_checkpoint, save_model_weights, unwrap_state_dict
from stable_audio_tools.errors import DataError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_demo_callback_from_config, create_training_wrapper_from_config
from stable_audio_tools.training.diffusion import DiffusionAutoencoderTrainingWrapper, DiffusionUncondTrainingWrapper

NAMES = ["uncond", "diffae"]
PREFIXES = {"uncond": "diffusion", "diffae": "diffae"}


@pytest.fixture
def config_of(tiny_uncond, tiny_diffae):
    return lambda name, **training: {"uncond": tiny_uncond, "diffae": tiny_diffae}[name](**training)


@pytest.fixture
def wrap(config_of):
    def make(name, **training):
        config = config_of(name, **training)
        torch.manual_seed(0)
        wrapper = create_training_wrapper_from_config(config, create_model_from_config(config))
        wrapper.logged = {}
        wrapper.log = lambda key, value, **_: wrapper.logged.update({key: value.detach()})
        wrapper.log_dict = lambda logs, **_: wrapper.logged.update(logs)
        wrapper._trainer = type("Trainer", (), {"optimizers": [], "loggers": []})()
        return wrapper

    return make


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_learns_and_the_rest_stays(train_briefly, config_of, name):
    prefix = PREFIXES[name]
    first, later = (train_briefly(config_of(name), max_steps=steps).wrapper for steps in (1, 4))
    before, after = (getattr(wrapper, prefix).state_dict() for wrapper in (first, later))
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == {"uncond": {"model"}, "diffae": {"encoder", "decoder", "diffusion"}}[name]
    assert int(later.ema.step) == 4, "one update per step"
    assert later.model.training and not later.model.pretransform.training and not later.ema.ema_model.training


@pytest.mark.parametrize("name", NAMES)
def test_recipes_are_those_of_the_config(wrap, train_briefly, config_of, name):
    assert type(wrap(name).configure_optimizers()) is torch.optim.Adam
    group = {"match": "model" if name == "uncond" else "decoder", "lr_scale": 0.5}
    recipe = {
        "optimizer": {"type": "Lion", "config": {"lr": 0.5}, "parameter_groups": [group]},
        "scheduler": {"type": "InverseLR", "config": {"warmup": 0.5, "inv_gamma": 1e9}},
    }
    options = {"learning_rate": None, "optimizer_configs": {"diffusion": recipe}}
    options |= {"timestep_sampler": "log_snr", "timestep_sampler_options": {"mean_logsnr": 40.0, "std_logsnr": 0.0}}
    wrapper = wrap(name, **options)
    (optimizer,), (schedule,) = wrapper.configure_optimizers()
    assert type(optimizer).__name__ == "Lion" and schedule["interval"] == "step"
    assert sorted({entry["lr"] for entry in optimizer.param_groups}) == ([0.125] if name == "uncond" else [0.125, 0.25])
    assert wrapper.timestep_sampler(3).tolist() == pytest.approx([1e-4] * 3)
    trained = train_briefly(config_of(name, **options), max_steps=2).wrapper
    assert trained.trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(optimizer.param_groups[0]["lr"] * 1.75)


@pytest.mark.parametrize("name", NAMES)
def test_averaged_lends_the_average_and_puts_everything_back(wrap, name):
    wrapper = wrap(name).train()
    online = wrapper.state_dict()
    with torch.no_grad():
        for parameter in wrapper.ema.ema_model.parameters():
            parameter.add_(1.0)
    with wrapper.averaged() as model:
        backbone = model.model if name == "uncond" else model
        assert backbone is wrapper.ema.ema_model and not any(module.training for module in model.modules())
    assert wrapper.model.training and wrapper.state_dict().keys() == online.keys()
    assert all(torch.equal(value, online[key]) for key, value in wrapper.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_checkpoints_hold_the_published_keys_and_become_models(train_briefly, config_of, tmp_path, name):
    config, prefix = config_of(name), PREFIXES[name]
    result = train_briefly(config, max_steps=3)
    checkpoint = read_checkpoint(result.checkpoint)
    assert checkpoint.kind == "wrapped"
    assert {key.split(".")[0] for key in checkpoint.state_dict} == {prefix, f"{prefix}_ema"}
    covered = "model" if name == "uncond" else ""
    average = result.wrapper.ema.ema_model.state_dict()
    unwrapped = unwrap_state_dict(checkpoint.state_dict)
    assert unwrapped.keys() == result.wrapper.model.state_dict().keys()
    assert all(torch.equal(unwrapped[f"{covered}.{key}".lstrip(".")], value) for key, value in average.items())
    saved = save_model_weights(unwrapped, tmp_path / "m.safetensors")
    assert read_checkpoint(saved).kind == kind_of(create_model_from_config(config).state_dict()) == "diffusion"
    fresh = create_model_from_config(config)
    assert load_model_weights(fresh, saved).is_complete and load_model_weights(fresh, result.checkpoint).is_complete


@pytest.mark.filterwarnings("ignore:Found keys that are not in the model")
@pytest.mark.parametrize(("cls", "name"), [(DiffusionUncondTrainingWrapper, "uncond"), (DiffusionAutoencoderTrainingWrapper, "diffae")])
def test_published_unwrapping_scripts_work(train_briefly, config_of, cls, name):
    """They load checkpoints of the reference, too, which hold more than ours."""
    result = train_briefly(config_of(name), max_steps=1)
    content = torch.load(result.checkpoint, weights_only=False)
    content["state_dict"] |= {"losses.losses.0.weight": torch.ones(()), f"{PREFIXES[name]}_ema.online_model.x": torch.ones(2)}
    path = result.folder / "theirs.ckpt"
    torch.save(content, path)
    copies = {"ema_copy": create_model_from_config(config_of(name))} if name == "diffae" else {}
    loaded = cls.load_from_checkpoint(path, model=create_model_from_config(config_of(name)), strict=False, weights_only=False, **copies)
    own, theirs = result.wrapper.state_dict(), loaded.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[key], theirs[key]) for key in own)
    assert unwrap_state_dict(read_checkpoint(path).state_dict).keys() == result.wrapper.model.state_dict().keys()


def test_encoded_data_are_divided_by_the_pretransforms_scale(wrap):
    wrapper = wrap("uncond", pre_encoded=True)
    wrapper.diffusion.pretransform.scale = 4.0
    latents = torch.randn(2, 4, 8)
    torch.testing.assert_close(wrapper.latents_of(latents), latents / 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("uncond", r"audio \(pre_encoded is false\) with 1 channels, but the dataset gives 3; does training.pre_encoded agree "),
        ("diffae", r"audio with 1 channels, but the dataset gives 3; does audio_channels agree with the model\?"),
    ],
)
def test_data_of_another_kind_is_refused(wrap, name, message):
    with pytest.raises(DataError, match=rf"^the model expects {message}"):
        wrap(name).training_step((torch.zeros(2, 3, 128), [{}, {}]), 0)


def test_terms_of_a_diffusion_autoencoder(wrap):
    batch = (0.3 * torch.randn(2, 1, 2048), [{}, {}])
    wrapper = wrap("diffae", use_reconstruction_loss=True)
    assert wrapper.spectral_loss is not None and wrap("diffae").spectral_loss is None
    loss = wrapper.training_step(batch, 0)
    terms = {key: float(wrapper.logged[f"train/{key}"]) for key in ("mse_loss", "kl_loss", "mrstft_loss")}
    assert float(loss.detach()) == pytest.approx(sum(terms.values()), rel=1e-5) and all(value > 0 for value in terms.values())
    assert {"train/loss", "train/std_data", "train/latent_std", "loss"} <= set(wrapper.logged)
    loss.backward()
    assert all(bool(parameter.grad.isfinite().all()) for parameter in wrapper.diffae.diffusion.parameters() if parameter.grad is not None)


def test_a_prediction_that_is_right_has_the_spectra_of_the_audio(wrap):
    """What is compared with the audio is what the prediction says it is: nothing is left if the network knows the noise."""
    audio = 0.3 * torch.randn(2, 1, 2048)
    wrapper = wrap("diffae", use_reconstruction_loss=True)
    data = wrapper.latents_of(audio)
    t = torch.tensor([0.3, 0.8])

    class Knows(torch.nn.Module):
        def forward(self, x, t, input_concat_cond):
            assert input_concat_cond.shape[-1] == x.shape[-1]
            alpha, sigma = (f(t * torch.pi / 2)[:, None, None] for f in (torch.cos, torch.sin))
            return (alpha * x - data) / sigma

    wrapper.diffae.diffusion = Knows()
    result, _, _ = wrapper.compute_losses(data, t)
    torch.testing.assert_close(result.denoised(), data, atol=1e-5, rtol=0)
    assert float(result.loss) < 1e-8
    wrapper.timestep_sampler = lambda batch, device: t
    wrapper.training_step((audio, [{}, {}]), 0)
    assert float(wrapper.logged["train/mrstft_loss"]) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_validation_repeats_its_numbers(wrap, name):
    wrapper, batch = wrap(name), (0.3 * torch.randn(2, 1, 128), [{}, {}])
    seen = []
    for _ in range(2):
        torch.randn(3)  # the global stream is elsewhere
        wrapper.eval().validation_step(batch, 1)
        seen.append(dict(wrapper.logged))
    assert set(seen[0]) == {"val/avg_loss", *(f"val/loss_{time}" for time in (0.1, 0.3, 0.5, 0.7, 0.9))}
    assert seen[0] == seen[1]


def test_demos_of_unconditional_models(train_briefly, config_of):
    demo = {"demo_every": 2, "demo_steps": 2, "num_demos": 3}
    result = train_briefly(config_of("uncond", demo=demo), max_steps=2, demos=True)
    names = sorted(path.name for path in (result.folder / "demos").glob("*.wav"))
    assert names == ["demo_00000000.wav", "demo_00000002.wav"]
    clip = load(result.folder / "demos" / names[1])
    assert (clip.sample_rate, tuple(clip.samples.shape)) == (8000, (1, 3 * 256))
    assert float(clip.samples.abs().max()) > 0


def test_demos_of_diffusion_autoencoders(train_briefly, config_of):
    result = train_briefly(config_of("diffae", demo={"demo_every": 1, "demo_steps": 2, "num_demos": 1}), max_steps=1, demos=True)
    names = sorted(path.name for path in (result.folder / "demos").glob("*.wav"))
    assert names == ["recon_00000000.wav", "recon_00000001.wav"]
    clip = load(result.folder / "demos" / names[1]).samples
    assert clip.shape == (1, 2 * 256) and 0.02 < float(clip[:, :256].std()) < 0.3  # all of it is turned down if the rest is loud
    assert not torch.allclose(clip[:, :256], clip[:, 256:], atol=0.05)


def test_demos_are_asked_for(config_of):
    assert create_demo_callback_from_config(config_of("uncond")) is None
    assert create_demo_callback_from_config(config_of("diffae")) is None
    callback = create_demo_callback_from_config(config_of("uncond", demo_every=50))  # beside, as older configs have it
    assert (callback.demo_every, callback.config.demo_steps, callback.config.num_demos) == (50, 250, 8)


def test_shipped_configs_have_wrappers_and_demos():
    folder = Path(__file__).parents[3] / "stable_audio_tools" / "configs" / "model_configs"
    for name in ("dance_diffusion/small_wavelet_22k.json", "diffusion_autoencoders/small_diffae_22k.json"):
        assert create_demo_callback_from_config(folder / name).demo_every == 1000
