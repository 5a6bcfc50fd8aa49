"""Demos write sound and pictures, and leave the run that they watch alone."""

import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from stable_audio_tools.audio import load, probe
from stable_audio_tools.audio.tags import read_metadata
from stable_audio_tools.checkpoint import weights_hash
from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.training.demos.autoencoder import statistics
from stable_audio_tools.training.demos.base import DemoCallback


def picture_of(path):
    from matplotlib.image import imread

    return imread(path)


def names_in(folder):
    return sorted(path.name for path in (folder / "demos").iterdir())


def demos_of(config, **demo):
    config["training"]["demo"] |= demo
    return config


def test_autoencoder_demos_are_originals_beside_reconstructions(train_briefly, tiny_autoencoder):
    result = train_briefly(demos_of(tiny_autoencoder(), demo_every=2), max_steps=4, demos=True)
    kinds = ("recon_{:08d}.wav", "recon_{:08d}.png", "latents_{:08d}.png")
    assert names_in(result.folder) == sorted(kind.format(step) for step in (0, 2, 4) for kind in kinds)
    clips = [load(result.folder / "demos" / f"recon_{step:08d}.wav") for step in (0, 2, 4)]
    assert {(clip.sample_rate, tuple(clip.samples.shape)) for clip in clips} == {(8000, (1, 2 * 2 * 1024))}
    originals, decoded = ([clip.samples[:, start : start + 1024] for clip in clips] for start in (0, 1024))
    assert torch.equal(originals[0], originals[1]) and torch.equal(originals[0], originals[2]), "the same clip each time"
    assert 0.1 < float(originals[0].std()) < 0.3 and not torch.allclose(originals[0], decoded[0], atol=0.05)
    assert not torch.equal(decoded[0], decoded[2])
    cloud = picture_of(result.folder / "demos" / "latents_00000004.png")
    assert float(np.std(cloud[..., :3])) > 0.02, "an empty picture"


def test_statistics_of_latents_find_a_channel_that_says_nothing():
    latents = torch.randn(2, 3, 500, generator=torch.Generator().manual_seed(0))
    latents[:, 1] = 0.5
    found = statistics(latents)
    assert found["demo/latent_channel_std_min"] == 0
    assert found["demo/latent_channel_std_max"] == pytest.approx(1, abs=0.1)


def test_a_resumed_run_shows_the_same_clips(train_briefly, tiny_autoencoder):
    config = demos_of(tiny_autoencoder(), demo_every=2)
    first = train_briefly(config, max_steps=2, demos=True)
    resumed = train_briefly(config, max_steps=4, demos=True, ckpt_path=first.checkpoint)
    before, after = (load(folder / "demos" / f"recon_{step:08d}.wav").samples for folder, step in ((first.folder, 0), (resumed.folder, 4)))
    assert torch.equal(before[:, :1024], after[:, :1024])


def test_diffusion_demos_are_the_configured_prompts_at_every_scale(train_briefly, tiny_diffusion):
    prompts = [{"prompt": prompt, "seconds_start": 0, "seconds_total": 1} for prompt in ("a kick", "a bell")]
    config = demos_of(tiny_diffusion(), demo_every=3, num_demos=2, demo_cond=prompts, demo_cfg_scales=[1, 4.5])
    result = train_briefly(config, max_steps=4, demos=True)
    stems = [f"demo_cfg_{scale}_{step:08d}" for scale in ("1", "4.5") for step in (0, 3)]
    assert names_in(result.folder) == sorted(f"{stem}.{suffix}" for stem in stems for suffix in ("wav", "png"))
    for stem in stems:
        info = probe(result.folder / "demos" / f"{stem}.wav")
        assert (info.sample_rate, info.num_channels, info.num_frames) == (8000, 1, 2 * 1024)
        picture = picture_of(result.folder / "demos" / f"{stem}.png")
        assert min(picture.shape[:2]) > 100 and float(np.std(picture[..., :3])) > 0.02, "an empty picture"


def test_files_say_what_they_are(train_briefly, tiny_diffusion):
    result = train_briefly(tiny_diffusion(), max_steps=1, demos=True)
    tags = read_metadata(result.folder / "demos" / "demo_cfg_1_00000000.wav")
    assert (tags["name"], tags["step"]) == ("demo_cfg_1", "0")


def test_demos_can_take_their_conditions_from_the_batch(train_briefly, tiny_diffusion):
    config = demos_of(tiny_diffusion(), demo_cond=[], demo_cond_from_batch=True, num_demos=2)
    result = train_briefly(config, max_steps=1, demos=True, batch_size=3)
    assert probe(result.folder / "demos" / "demo_cfg_1_00000000.wav").num_frames == 2 * 1024


@pytest.mark.parametrize("objective", ["v", "rectified_flow", "rf_denoiser"])
def test_demos_of_all_objectives_work(train_briefly, tiny_diffusion, objective):
    result = train_briefly(tiny_diffusion(objective=objective), max_steps=1, demos=True)
    clip = load(result.folder / "demos" / "demo_cfg_1_00000000.wav").samples
    assert bool(clip.isfinite().all()) and float(clip.abs().max()) > 0


def test_demos_change_nothing_about_the_run(train_briefly, tiny_autoencoder, tiny_diffusion):
    for make in (tiny_autoencoder, tiny_diffusion):
        hashes = set()
        for every in (1, 3, None):
            result = train_briefly(demos_of(make(), demo_every=every or 1), max_steps=4, demos=every is not None)
            hashes.add(weights_hash(result.wrapper.state_dict()))
            assert result.wrapper.model.training or every is None
        assert len(hashes) == 1


class Probe(DemoCallback):
    """A demo that draws random numbers, and fails at given steps."""

    def __init__(self, *failing, every=1):
        super().__init__(every)
        self.failing, self.drawn = failing, {}

    def demo(self, wrapper, batch, step):
        self.drawn[step] = float(torch.rand(()))
        if step in self.failing:
            raise RuntimeError("out of memory")
        self.emit("clip", torch.full((1, 800), 2.0 if step else 0.5), 8000, step)


def test_a_demo_that_fails_is_reported_and_counted_and_the_run_goes_on(train_briefly, tiny_diffusion, caplog):
    probe_ = Probe(0, 2)
    result = train_briefly(tiny_diffusion(), max_steps=3, callbacks=[probe_])
    assert result.step == 3 and probe_.num_failed == 2
    assert "the demo of step 0 failed (1 failed so far); training goes on" in caplog.text
    assert "the demo of step 2 failed (2 failed so far); training goes on" in caplog.text
    assert "RuntimeError: out of memory" in caplog.text
    assert names_in(result.folder) == [f"clip_{step:08d}.{suffix}" for step in (1, 3) for suffix in ("png", "wav")]


def test_every_demo_has_the_same_random_numbers(train_briefly, tiny_diffusion):
    probe_ = Probe(every=2)
    train_briefly(tiny_diffusion(), max_steps=4, callbacks=[probe_])
    assert list(probe_.drawn) == [0, 2, 4] and len(set(probe_.drawn.values())) == 1


def test_only_what_would_clip_is_turned_down(train_briefly, tiny_diffusion):
    result = train_briefly(tiny_diffusion(), max_steps=1, callbacks=[Probe()])
    quiet, loud = (load(result.folder / "demos" / f"clip_{step:08d}.wav").samples for step in (0, 1))
    assert float(quiet.abs().max()) == pytest.approx(0.5, abs=1e-3)
    assert float(loud.abs().max()) == pytest.approx(1.0, abs=1e-3)


def test_demos_can_go_to_another_folder(train_briefly, tiny_diffusion, tmp_path):
    probe_ = Probe()
    probe_.folder = tmp_path / "elsewhere"
    train_briefly(tiny_diffusion(), max_steps=1, callbacks=[probe_])
    assert len(list((tmp_path / "elsewhere").iterdir())) == 4


def test_demos_that_failed_are_told_again_at_the_end(train_briefly, tiny_diffusion, caplog):
    train_briefly(tiny_diffusion(), max_steps=2, callbacks=[Probe(0, 1)])
    assert caplog.messages.count("2 demos failed in this run; the first one: step 0: out of memory") == 1


@pytest.mark.parametrize("where", ["on the device", "on the cpu"])
def test_a_demo_that_fails_inside_the_average_gives_the_model_back(train_briefly, tiny_diffusion, where):
    class Broken(Probe):
        def demo(self, wrapper, batch, step):
            with wrapper.averaged() as model:
                assert not model.training
                raise RuntimeError("out of memory")

    class Modes(pl.Callback):
        def on_before_backward(self, trainer, pl_module, loss):
            assert pl_module.model.training and pl_module.model.model.training

    ema = {"ema": {"on_cpu": True}} if where == "on the cpu" else {}
    result = train_briefly(tiny_diffusion(**ema), max_steps=2, callbacks=[Broken(), Modes()])
    assert result.step == 2


# ---- conditions that are audio ----------------------------------------------------------------------------------------------------

STEMS = """
def get_custom_metadata(info, audio):
    quiet, latents = 0.1 * audio, audio.reshape(-1)[:64].reshape(4, 16)
    return {"prompt": "a", "seconds_start": 0, "seconds_total": 1, "audio": quiet, "latents": latents,
            "stems": {"one": quiet, "two": 2 * quiet}}
"""


@pytest.fixture
def with_stems(tmp_path, write_noises):
    (tmp_path / "stems.py").write_text(STEMS)
    folder = write_noises(tmp_path / "sounds", 4)
    entry = {"id": "noises", "path": str(folder), "custom_metadata_module": str(tmp_path / "stems.py")}
    return {"dataset_type": "audio_dir", "datasets": [entry]}


def test_conditions_that_are_audio_are_written_alone_and_mixed(train_briefly, tiny_diffusion, with_stems):
    displays = [
        {"id": "audio", "type": "audio", "config": {"display_mix": True}},
        {"id": "latents", "type": "audio", "config": {"pre_encoded": True}},
        {"id": "stems", "type": "audio_dict"},
    ]
    config = demos_of(
        tiny_diffusion(), demo_cond=[], demo_cond_from_batch=True, num_demos=2, demo_cfg_scales=[2], display_audio_cond=True,
        cond_display_configs=displays,
    )  # fmt: skip
    result = train_briefly(config, max_steps=1, demos=True, dataset_config=with_stems)
    names = ["demo_audio", "demo_audio_cond", "demo_audio_mix_cfg_2", "demo_cfg_2", "demo_latents", "demo_stems_mix_cfg_2"]
    names += ["demo_stems_submix_cfg_2"]
    assert names_in(result.folder) == sorted(f"{name}_00000000.{suffix}" for name in names for suffix in ("png", "wav"))
    heard = {name: load(result.folder / "demos" / f"{name}_00000000.wav").samples for name in names}
    assert {tuple(clip.shape) for name, clip in heard.items() if name != "demo_latents"} == {(1, 2 * 1024)}
    assert tuple(heard["demo_latents"].shape) == (1, 2 * 16 * 16)
    assert torch.equal(heard["demo_audio"], heard["demo_audio_cond"]) and 0.01 < float(heard["demo_audio"].std()) < 0.03
    torch.testing.assert_close(heard["demo_stems_submix_cfg_2"], 3 * heard["demo_audio"], atol=2e-4, rtol=0)
    torch.testing.assert_close(heard["demo_audio_mix_cfg_2"], heard["demo_audio"] + heard["demo_cfg_2"], atol=2e-4, rtol=0)
    torch.testing.assert_close(heard["demo_stems_mix_cfg_2"], 3 * heard["demo_audio"] + heard["demo_cfg_2"], atol=2e-4, rtol=0)


@pytest.mark.parametrize(
    ("display", "message"),
    [
        ({"id": "prompt", "type": "audio"}, r"demo item 0: 'prompt' is to be shown as audio, a tensor \(channels, length\), but is 'a'"),
        (
            {"id": "audio", "type": "audio_dict"},
            "demo item 0: 'audio' is to be shown as 'audio_dict', but is no object from names to audio",
        ),
        ({"id": "nothing", "type": "audio"}, "demo item 0: 'nothing' is to be shown as audio, a tensor .*, but is None"),
    ],
)
def test_conditions_that_are_no_audio_are_told(train_briefly, tiny_diffusion, with_stems, caplog, display, message):
    demo = {"demo_cond": [], "demo_cond_from_batch": True, "num_demos": 2, "cond_display_configs": [display]}
    train_briefly(demos_of(tiny_diffusion(), **demo), max_steps=1, demos=True, dataset_config=with_stems)
    assert any(re.search(message, told) for told in caplog.messages), caplog.text


def test_conditions_to_show_must_be_there(tiny_diffusion, tiny_inpaint):
    config = demos_of(tiny_diffusion(), display_audio_cond=True, cond_display_configs=[{"id": "prompt", "type": "audio"}])
    assert [(mistake.path, mistake.message) for mistake in check_model_config(config)] == [
        (f"training.demo.{key}", f"demo_cond has no audio under {name!r}; audio comes with the data: set demo_cond_from_batch")
        for key, name in (("display_audio_cond", "audio"), ("cond_display_configs[0]", "prompt"))
    ]
    shown = {"display_audio_cond": True, "cond_display_configs": [{"id": "prompt", "type": "audio"}]}
    config = tiny_inpaint(demo={"demo_cfg_scales": [1], **shown})
    told = {(mistake.path, mistake.kind) for mistake in check_model_config(config)}
    assert told == {(f"training.demo.{key}", "warning") for key in ("display_audio_cond", "cond_display_configs")}
