"""Metrics while training: the distance itself, when it is measured, and of what."""

import csv
import logging

import pytest
import soundfile
import torch

from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.models import create_model_from_config
from stable_audio_tools.training import create_metrics_callback_from_config, create_training_wrapper_from_config
from stable_audio_tools.training.metrics import callbacks, frechet_distance
from stable_audio_tools.training.metrics.prompts import read_prompts


@pytest.fixture
def reals(noises):
    """Keys that name real files."""
    return {"ref_audios_path": noises["datasets"][0]["path"], "ref_audios_ext": ".wav"}


@pytest.fixture
def generations(reals, tmp_path):
    """``training.metrics`` of a diffusion model."""
    (tmp_path / "prompts.txt").write_text("a kick\n\na snare\n")
    sizes = {"num_generations": 5, "min_length": 0.02, "max_length": 0.1, "sampling_steps": 2, "decode_batch_size": 2, "metrics_every": 2}
    return {**reals, **sizes, "prompts_path": str(tmp_path / "prompts.txt")}


def rows(result, name):
    with (result.folder / "metrics" / "metrics.csv").open(newline="") as stream:
        return [(int(row["step"]), float(row[f"metrics/{name}"])) for row in csv.DictReader(stream) if row.get(f"metrics/{name}")]


def test_the_distance_of_two_gaussians_is_known():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(20000, 3, generator=generator)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([3.0, 0.0, 4.0])) == pytest.approx(25, rel=1e-6)
    assert frechet_distance(x, 3 * x) == pytest.approx(3 * 4, rel=0.05), "three spreads, of 1 and 3"
    assert frechet_distance(x[:, :1], 2 * x[:, :1]) == pytest.approx(1, rel=0.05)


def test_reconstructions_are_measured_every_so_many_steps(train_briefly, tiny_autoencoder, reals):
    metrics = {**reals, "metrics_every": 2, "max_samples": 2}
    measured = rows(train_briefly(tiny_autoencoder(metrics=metrics), max_steps=4, logger="csv"), "latent_frechet_distance")
    assert [step for step, _ in measured] == [2, 4] and all(value > 0 for _, value in measured)
    early = train_briefly(tiny_autoencoder(metrics={**metrics, "skip_first": False}), max_steps=2, logger="csv")
    assert [step for step, _ in rows(early, "latent_frechet_distance")] == [0, 2]


def test_generations_are_measured_by_latents_and_by_clap(train_briefly, tiny_diffusion, generations, tiny_clap):
    metrics = {**generations, "clap_model": str(tiny_clap), "embedding_types": ["clap", "latent"]}
    result = train_briefly(tiny_diffusion(metrics=metrics), max_steps=2, logger="csv")
    assert result.step == 2
    for name in ("clap_frechet_distance", "latent_frechet_distance"):
        ((step, value),) = rows(result, name)
        assert step == 2 and value > 0
    ((_, score),) = rows(result, "clap_score")
    assert -1 < score < 1


def test_measuring_leaves_training_alone_and_repeats_its_numbers(train_briefly, tiny_diffusion, generations):
    plain, measured = (train_briefly(tiny_diffusion(**options), max_steps=3) for options in ({}, {"metrics": generations}))
    assert all(torch.equal(value, measured.wrapper.state_dict()[key]) for key, value in plain.wrapper.state_dict().items())


@pytest.fixture
def measure(generations, randomise):
    def measure(config, **metrics):
        config["training"]["metrics"] = {**generations, **metrics}
        torch.manual_seed(0)
        wrapper = create_training_wrapper_from_config(config, randomise(create_model_from_config(config)))
        callback = create_metrics_callback_from_config(config)
        assert callback.measure(wrapper) == callback.measure(wrapper)
        return callback, callback.measure(wrapper)

    return measure


def test_every_key_of_generations_counts(measure, tiny_diffusion):
    callback, before = measure(tiny_diffusion())
    lengths = [item["seconds_total"] for item in callback.conditions(8000)]
    assert len(lengths) == 5 and all(0.02 <= seconds <= 0.1 for seconds in lengths) and len(set(lengths)) == 5
    assert {item["prompt"] for item in callback.conditions(8000)} == {"a kick", "a snare"}
    assert max(item["seconds_total"] for item in measure(tiny_diffusion(), max_length=100.0)[0].conditions(8000)) == 1024 / 8000
    for key, value in {"num_generations": 4, "sampling_steps": 3, "cfg_scale": 1.0, "min_length": 0.05, "max_length": 0.12}.items():
        assert measure(tiny_diffusion(), **{key: value})[1] != before, key


def test_a_measurement_that_fails_is_told_and_does_not_end_the_run(train_briefly, tiny_autoencoder, tmp_path, caplog):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    metrics = {"ref_audios_path": str(tmp_path), "ref_audios_ext": ".wav", "metrics_every": 1}
    assert train_briefly(tiny_autoencoder(metrics=metrics), max_steps=2).step == 2
    assert "the metrics of step 1 failed; training goes on" in caplog.text


def test_a_measurement_that_others_would_not_wait_for_is_given_up(train_briefly, tiny_diffusion, generations, caplog, monkeypatch):
    monkeypatch.setattr(callbacks, "_num_processes", lambda: 2)
    assert rows(train_briefly(tiny_diffusion(metrics=generations), max_steps=2, logger="csv"), "latent_frechet_distance")
    monkeypatch.setattr(callbacks, "PATIENCE", 0.0)
    result = train_briefly(tiny_diffusion(metrics=generations), max_steps=2, logger="csv")
    assert result.step == 2 and not rows(result, "latent_frechet_distance")
    assert "the metrics of step 2 failed" in caplog.text and "and 1 other processes wait for 0 at most" in caplog.text


def test_progress_is_told_if_wanted(measure, tiny_diffusion, caplog):
    caplog.set_level(logging.INFO, "stable_audio_tools")
    measure(tiny_diffusion(), show_progress=False)
    assert "metrics: generations" not in caplog.text
    measure(tiny_diffusion())
    assert "metrics: generations: 4 of 5" in caplog.text


# ---- what is refused ---------------------------------------------------------------------------------------------------------------------


def mistakes(config):
    return [f"{mistake.path}: {mistake.message}" for mistake in check_model_config(config)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"embedding_types": ["panns"]},
            "embedding_types[0]: not supported: 'panns': no package that is kept up has this",
        ),
        ({"embedding_types": ["openl3"]}, "embedding_types[0]: not supported: 'openl3': its package needs TensorFlow"),
        ({"embedding_types": ["x"]}, "embedding_types[0]: is 'x'; known: latent, clap"),
        (
            {"embedding_types": ["clap"]},
            "embedding_types: 'clap' needs clap_model: the folder or file of a CLAP, since nothing",
        ),
        ({"embedding_types": []}, "embedding_types: is empty; one of latent, clap"),
        ({"prompts_type": "song_describer-nosinging"}, "prompts_type: not supported: captions are not downloaded: save song_descr"),
        ({"min_length": 2.0}, "min_length: is 2.0, but must be at most max_length, which is 0.1"),
    ],
)
def test_what_is_not_there_is_refused_with_the_reason(tiny_diffusion, generations, options, message):
    found = mistakes(tiny_diffusion(metrics={**generations, **options}))
    assert any(line.startswith(f"training.metrics.{message}") for line in found), found


def test_files_prompts_and_models_that_do_not_fit(tiny_autoencoder, tiny_diffusion, generations, tmp_path):
    assert create_metrics_callback_from_config(tiny_autoencoder()) is None
    with pytest.raises(DataError, match=r"^training.metrics.ref_audios_path: .* holds no file that ends in '.mp3'$"):
        create_metrics_callback_from_config(tiny_autoencoder(metrics={"ref_audios_path": str(tmp_path)}))
    with pytest.raises(ConfigError, match=r"'latent' needs a model with a pretransform; use 'clap'"):
        create_metrics_callback_from_config(tiny_diffusion(pretransform=False, metrics=generations))
    config = tiny_diffusion(metrics=generations)
    del config["training"]["demo"]
    config["model"]["conditioning"]["configs"].append({"id": "bpm", "type": "number", "config": {"min_val": 0, "max_val": 10}})
    with pytest.raises(ConfigError, match=r"conditioned on bpm, which is not one of prompt, seconds_start, seconds_total"):
        create_metrics_callback_from_config(config)
    soundfile.write(tmp_path / "one.wav", [0.0, 0.1], 8000)
    alone = {"ref_audios_path": str(tmp_path), "ref_audios_ext": ".wav"}
    with pytest.raises(ConfigError, match=r"clap_model: 'no/clap' is neither a file, nor a folder, nor a Hugging Face id that"):
        create_metrics_callback_from_config(tiny_autoencoder(metrics={**alone, "clap_model": "no/clap"}))


def test_a_clap_compares_at_least_two_files(tiny_autoencoder, tiny_clap, tmp_path):
    soundfile.write(tmp_path / "one.wav", [0.0, 0.1], 8000)
    metrics = {"ref_audios_path": str(tmp_path), "ref_audios_ext": ".wav", "clap_model": str(tiny_clap)}
    with pytest.raises(DataError, match="'clap' compares clips, so it needs two files at least"):
        create_metrics_callback_from_config(tiny_autoencoder(metrics=metrics))


def test_prompts_come_from_tables_and_lists(tmp_path):
    (tmp_path / "a.csv").write_text('caption_id,caption\n1,"A slow, sad song"\n2,\n3,Fast\n')
    assert read_prompts(tmp_path / "a.csv") == ["A slow, sad song", "Fast"]
    (tmp_path / "b.csv").write_text("id,text\n1,a\n")
    with pytest.raises(DataError, match=r"b\.csv: has no column caption or prompt; its columns are id, text"):
        read_prompts(tmp_path / "b.csv")
    (tmp_path / "c.txt").write_text("\n")
    with pytest.raises(DataError, match=r"c\.txt: holds no prompt"):
        read_prompts(tmp_path / "c.txt")
    with pytest.raises(DataError, match="cannot be read as a list of prompts"):
        read_prompts(tmp_path / "none.txt")
