"""Pre-encoding: what is written, and that it is what the encoder gives."""

from __future__ import annotations

import json
import re
import tarfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from stable_audio_tools.audio import load
from stable_audio_tools.checkpoint import load_model_weights
from stable_audio_tools.data.shards.pack import pack
from stable_audio_tools.errors import CheckpointError, ConfigError, DataError
from stable_audio_tools.models import create_model_from_config
from tests.preencode.conftest import SECONDS, contents

RATIO, FRAMES = 16, 256


def latents_of(folder):
    return {path.stem: np.load(path) for path in sorted(folder.glob("[0-9]*/*.npy"))}


def test_layout_and_metadata(encode, vae, sounds):
    result = encode()
    folder = result.folder
    assert (result.written, result.skipped, result.is_complete) == (10, 0, True)
    assert result.summary == f"10 of 10 items are in {folder}, 10 of them new"
    names = [f"000{group:06d}{place:04d}" for group in range(3) for place in range(4)][:10]
    assert sorted(path.name for path in folder.iterdir()) == ["0", "README.md", "card.json", "details.json", "silence.npy"]
    assert sorted(path.name for path in (folder / "0").iterdir()) == sorted(
        ["journal.jsonl", *(f"{name}{suffix}" for name in names for suffix in (".json", ".npy"))]
    )
    metadata = json.loads((folder / "0" / f"{names[1]}.json").read_text())
    assert metadata["path"] == str(sounds / "01.wav") and metadata["relpath"] == "01.wav" and metadata["prompt"] == "noise 1"
    assert metadata["padding_mask"] == [1] * 60 + [0] * 196 and metadata["timestamps"] == [0, 1]
    assert (metadata["seconds_start"], metadata["seconds_total"], metadata["sample_rate"]) == (0, 1, 8000)
    assert (metadata["downsampling_ratio"], metadata["stored"]) == (16, "sample")
    assert all(value.shape == (4, FRAMES) and value.dtype == np.float32 for value in latents_of(folder).values())
    details = json.loads((folder / "details.json").read_text())
    assert details["model_config"] == str(vae.config_path) and details["dataset_config"] is None
    assert details["sample_size"] == 4096 and details["args"]["batch_size"] == 2 and details["variable_length"] is False


def test_the_card_says_what_it_is(encode, vae):
    folder = encode().folder
    card = json.loads((folder / "card.json").read_text())
    assert card["complete"] and card["model"]["name"] == "model.safetensors" and len(card["model"]["hash"]) == 16
    assert (card["latent_length"], card["latent_channels"], card["downsampling_ratio"], card["sample_rate"]) == (256, 4, 16, 8000)
    assert card["model_config"] == vae.config
    frames = [min(-(-round(8000 * seconds) // RATIO), FRAMES) for seconds in SECONDS]
    assert card["summary"]["frames"] == {"min": 25, "max": 256, "total": sum(frames)}
    assert card["summary"]["items"] == 10 and card["summary"]["items_up_to_frames"] == {"32": 2, "64": 1, "128": 2, "256": 5}
    assert "10 items, 0.0008 hours, as `npy` files of 4 channels in fp32; 0 skipped" in (folder / "README.md").read_text()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_is_that_of_the_padded_clip(encode, vae, sounds, batch_size):
    """Everywhere, since clips are encoded a bit further than their end, and what follows is encoded silence."""
    written = latents_of(encode(store="mean", batch_size=batch_size).folder)
    model = create_model_from_config(vae.config)
    load_model_weights(model, vae.weights)
    for (_, found), path in zip(written.items(), sorted(sounds.glob("*.wav")), strict=True):
        audio = load(path).samples[:, :4096]
        padded = torch.nn.functional.pad(audio, (0, 4096 - audio.shape[-1]))[None]
        with torch.no_grad():
            expected = model.encode(padded, sample=False)[0]
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=2e-5, rtol=1e-4)


def test_without_padding_the_real_part_is_the_same(encode):
    padded, short = latents_of(encode("a").folder), latents_of(encode("b", pad=False).folder)
    assert [value.shape[-1] for value in short.values()] == [25, 60, 200, 65, 256, 150, 25, 256, 125, 250]
    mean, short_mean = latents_of(encode("c", store="mean").folder), latents_of(encode("d", store="mean", pad=False).folder)
    for name in mean:
        assert np.array_equal(mean[name][:, : short_mean[name].shape[-1]], short_mean[name])
    assert padded.keys() == short.keys()


def test_a_sample_is_mean_and_deviation_and_noise_of_the_item_alone(encode):
    """Whatever is encoded with it, in whatever order and by however many processes."""
    one, other = latents_of(encode("a").folder), latents_of(encode("b", batch_size=5, shard_size=3).folder)
    for (_, first), (_, second) in zip(one.items(), other.items(), strict=True):
        np.testing.assert_allclose(first, second, atol=2e-5)
    pair, mean = latents_of(encode("c", store="mean-scale").folder), latents_of(encode("d", store="mean").folder)
    deviations = []
    for name, sample in one.items():
        assert np.array_equal(pair[name][:4], mean[name]) and pair[name].shape == (8, FRAMES)
        deviations.append((sample - mean[name]) / (np.log1p(np.exp(pair[name][4:])) + 1e-4))
    noise = np.stack(deviations)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert np.abs(np.corrcoef(noise.reshape(10, -1)) - np.eye(10)).max() < 0.15, "every item has noise of its own"
    again = latents_of(encode("e", seed=1).folder)
    assert all(not np.allclose(again[name], one[name], atol=0.1) for name in one)


def test_a_shuffled_run_has_the_same_items(encode):
    plain, shuffled = latents_of(encode("a").folder), latents_of(encode("b", shuffle=True).folder)
    assert [value.sum() for value in plain.values()] != [value.sum() for value in shuffled.values()]
    for found in shuffled.values():
        assert min(np.abs(found - expected).max() for expected in plain.values()) < 2e-5


def test_full_length_is_the_same_and_slower(encode):
    short, full = latents_of(encode("a", store="mean").folder), latents_of(encode("b", store="mean", full_length=True).folder)
    for name in short:
        np.testing.assert_allclose(short[name], full[name], atol=2e-5)


@pytest.mark.parametrize(("dtype", "numpy"), [("fp16", np.float16), ("fp32", np.float32)])
def test_data_types(encode, dtype, numpy):
    assert {value.dtype.type for value in latents_of(encode(dtype=dtype).folder).values()} == {numpy}


def test_safetensors_and_bf16(encode):
    exact = latents_of(encode("a").folder)
    folder = encode("b", format="safetensors", dtype="bf16").folder
    for name, expected in exact.items():
        found = load_file(folder / "0" / f"{name}.safetensors")["latents"]
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), torch.from_numpy(expected), atol=0.05, rtol=0.01)


def test_shards(encode):
    plain, folder = encode("a").folder, encode("b", format="wds").folder
    shards = sorted((folder / "0").glob("*.tar"))
    assert [shard.name for shard in shards] == ["000000000.tar", "000000001.tar", "000000002.tar"]
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar.getmembers():
                found[f"0/{member.name}"] = tar.extractfile(member).read()
    assert found == {name: content for name, content in contents(plain).items() if name.startswith("0/")}


def test_audio_in_shards_is_encoded_as_audio_in_folders_is(encode, data, sounds, tmp_path):
    pack(sounds, tmp_path / "shards")
    shards = {"dataset_type": "wds", "datasets": [{"id": "a", "path": str(tmp_path / "shards")}], "random_crop": False}
    plain, found = encode("a", store="mean").folder, encode("b", store="mean", dataset_config=shards).folder

    def by_caption(folder):
        names = {name: json.loads((folder / "0" / f"{name}.json").read_text()) for name in latents_of(folder)}
        return {(entry["relpath"], entry["prompt"]): latents_of(folder)[name] for name, entry in names.items()}

    expected, given = by_caption(plain), by_caption(found)
    assert expected.keys() == given.keys() and all(np.allclose(given[key], expected[key], atol=1e-5) for key in expected)


def test_half_precision(encode):
    half, full = latents_of(encode("a", store="mean", model_half=True).folder), latents_of(encode("b", store="mean").folder)
    for name in full:
        np.testing.assert_allclose(half[name], full[name], atol=0.02)


def test_a_limit_and_going_on_without_it(encode):
    result = encode(limit_batches=2)
    assert (result.written, result.is_complete) == (4, True)
    assert not json.loads((result.folder / "card.json").read_text())["complete"]
    assert encode().written == 6
    assert json.loads((result.folder / "card.json").read_text())["complete"]


def test_progress_has_a_rate_and_the_time_left(encode):
    seen = []
    encode(on_progress=seen.append)
    assert [progress.num_done for progress in seen] == sorted(progress.num_done for progress in seen)
    assert seen[-1].num_done == seen[-1].num_files == 10
    assert seen[-1].audio_seconds == pytest.approx(sum(min(seconds, 0.512) for seconds in SECONDS), abs=0.01)
    assert str(seen[-1]).startswith("10/10 items, ") and str(seen[-1]).endswith(" x real time, 0:00:00 left")
    assert str(type(seen[0])(1, 4, 1, 2.0, 10.0)) == "1/4 items, 5 x real time, 0:00:06 left"


def test_a_diffusion_model_lends_its_autoencoder_and_the_scale_is_left_out(encode, write_model, tiny_diffusion, vae, sounds):
    config = tiny_diffusion()
    config["model"]["pretransform"]["scale"] = 3.0
    model = write_model(config)
    autoencoder = create_model_from_config(vae.config)
    weights = load_file(model.weights)
    own = {key.removeprefix("pretransform.model."): value for key, value in weights.items() if key.startswith("pretransform.model.")}
    autoencoder.load_state_dict(own)
    found = latents_of(encode("a", store="mean", sample_size=None, **model.options).folder)
    assert all(value.shape == (4, 64) for value in found.values()), "the model's sample_size is 1024"
    with torch.no_grad():
        expected = autoencoder.encode(load(sounds / "04.wav").samples[None, :, :1024], sample=False)[0]
    np.testing.assert_allclose(found["0000000010000"], expected.numpy(), atol=2e-5)


def test_a_pretransform_that_is_no_autoencoder(encode, write_model, tiny_uncond, sounds):
    found = latents_of(encode(sample_size=None, **write_model(tiny_uncond()).options).folder)
    audio = load(sounds / "04.wav").samples[0, :256]
    assert np.array_equal(found["0000000010000"], audio.reshape(-1, 4).T.numpy())


def test_a_pretrained_folder(encode, vae):
    plain, named = encode("a").folder, encode("b", pretrained_name=str(vae.weights.parent)).folder
    assert latents_of(plain).keys() == latents_of(named).keys()
    assert all(np.array_equal(one, other) for one, other in zip(latents_of(plain).values(), latents_of(named).values(), strict=True))


def test_tokens(encode, write_model, oobleck_config):
    config = oobleck_config(bottleneck=None, strides=(4, 4))
    config["model"]["bottleneck"] = {"type": "rvq", "config": {"dim": 4, "codebook_size": 16, "num_quantizers": 3}}
    found = latents_of(encode(is_discrete=True, **write_model(config).options).folder)
    assert all(value.shape == (3, FRAMES) and value.dtype == np.int32 and value.max() < 16 for value in found.values())


def test_unusable_files_are_skipped_counted_and_named_once(encode, tmp_path, write_noises):
    folder = write_noises(tmp_path / "audio", 5)
    (folder / "01.wav").write_bytes(b"RIFF")
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(folder)}]}
    for written in (4, 0):
        result = encode(dataset_config=config)
        assert (result.written, result.skipped) == (written, 1)
        assert re.search(rf"; skipped 1 \({re.escape(str(folder / '01.wav'))}: \w.+\)$", result.summary), result.summary
    journal = (result.folder / "0" / "journal.jsonl").read_text().splitlines()
    assert len(journal) == 5 and sum("skipped" in line for line in journal) == 1
    (skipped,) = json.loads((result.folder / "card.json").read_text())["summary"]["skipped_items"]
    assert skipped["path"] == str(folder / "01.wav") and "01.wav" in skipped["why"]


def test_nothing_usable_is_an_error(encode, tmp_path):
    for index in range(3):
        (tmp_path / f"{index}.wav").write_bytes(b"RIFF")
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(tmp_path)}]}
    with pytest.raises(DataError, match=r"^none of 3 items could be used; the first: .*0\.wav"):
        encode(dataset_config=config)


def test_what_json_cannot_hold_is_left_out_and_named(encode, data, tmp_path, caplog):
    module = "import torch\ndef get_custom_metadata(info, audio):\n"
    module += "    return {'small': torch.ones(2), 'nested': [torch.ones(1)], 'large': torch.ones(9, 9999), 'odd': object()}"
    (tmp_path / "md.py").write_text(module)
    folder = dict(data["datasets"][0], custom_metadata_module=str(tmp_path / "md.py"))
    result = encode(dataset_config={**data, "datasets": [folder]})
    metadata = json.loads((result.folder / "0" / "0000000000000.json").read_text())
    assert metadata["small"] == [1, 1] and metadata["nested"] == [[1]] and "large" not in metadata and "odd" not in metadata
    assert caplog.text.count("metadata 'large' is left out") == 1 and "metadata 'odd' is left out, since a JSON file cannot" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, r"^--batch-size is at least 1, got 0$"),
        ({"limit_batches": 0}, r"^--limit-batches is at least 1, got 0$"),
        ({"num_workers": -1}, r"^--num-workers is at least 0, got -1$"),
        ({"shard_size": 10000}, r"^--shard-size is at most 9999, got 10000$"),
        ({"dtype": "fp8"}, r"^--dtype is one of fp32, fp16, bf16, got 'fp8'$"),
        ({"format": "zip"}, r"^--format is one of npy, safetensors, wds, got 'zip'$"),
        ({"store": "all"}, r"^--store is one of sample, mean, mean-scale, got 'all'$"),
        ({"dtype": "bf16"}, r"^--dtype bf16: NPY files, and --format npy, cannot hold it; add --format safetensors, or use fp16$"),
        ({"pretrained_name": "x", "model_config": "y"}, r"^--model-config with --ckpt-path, or --pretrained-name: give one of them$"),
        ({"pretrained_name": "x", "ckpt_path": "y"}, r"^--pretrained-name has weights of its own; leave out --ckpt-path$"),
        ({"model_config": "m.json"}, r"^--ckpt-path: the weights to encode with; fresh ones would make latents that mean nothing$"),
        ({"is_discrete": True}, r"^--is-discrete: the autoencoder makes no tokens; leave it out to store latents$"),
        ({"cache_conditions": ["prompt"]}, r"^--cache-conditions prompt: the model has no conditioner of that id; it has none: give the "),
        ({"dataset_config": {"dataset_type": "pre_encoded", "datasets": []}}, r"^dataset config: dataset_type 'pre_encoded' holds latents"),
        ({"dataset_config": {"dataset_type": "odd"}}, r"^dataset config: dataset_type: unknown dataset_type 'odd'"),
    ],
)
def test_what_cannot_be(encode, options, message):
    with pytest.raises(ConfigError, match=message):
        encode(**options)


def test_a_model_without_an_encoder_is_refused(encode, write_model, tiny_diffusion):
    model = write_model(tiny_diffusion(False))
    with pytest.raises(ConfigError, match="ConditionedDiffusionModelWrapper is no autoencoder and has no pretransform"):
        encode(**model.options)


def test_mean_and_scale_need_a_vae(encode, write_model, oobleck_config):
    model = write_model(oobleck_config(bottleneck="tanh"))
    with pytest.raises(ConfigError, match="--store mean-scale: needs a 'vae' bottleneck, which has both, and the autoencoder has TanhBot"):
        encode(store="mean-scale", **model.options)


def test_weights_of_another_kind(encode, vae, write_model, tiny_diffusion):
    with pytest.raises(CheckpointError, match="is a whole diffusion model"):
        encode(model_config=vae.config, ckpt_path=write_model(tiny_diffusion()).weights)


def test_latents_that_are_no_numbers(encode, write_model, tiny_autoencoder):
    model = write_model(tiny_autoencoder())
    state = load_file(model.weights)
    from safetensors.torch import save_file

    save_file({key: value * float("nan") for key, value in state.items()}, model.weights)
    with pytest.raises(DataError, match=r"^the autoencoder gives NaN or infinite latents$"):
        encode(**model.options)


def test_an_output_path_that_is_a_file_or_holds_something_else(encode, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"^--output-path .*file: is a file; give a folder$"):
        encode("file")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    with pytest.raises(DataError, match=r"mine: holds README\.md but no card\.json; give an empty folder as --output-path$"):
        encode("mine")
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"
    (tmp_path / "old" / "0").mkdir(parents=True)
    with pytest.raises(DataError, match=r"old: holds 0 but no card\.json; give an empty folder as --output-path$"):
        encode("old")


@pytest.mark.parametrize("name", ["a.npy", "b.safetensors", "silence.npy", "train/a.npy"])
def test_latents_of_another_program_are_not_mixed_with_new_ones(encode, tmp_path, name):
    file = tmp_path / "theirs" / name
    file.parent.mkdir(parents=True)
    file.touch()
    named = re.escape(name.split("/")[0])
    with pytest.raises(DataError, match=rf"theirs: holds {named} but no card\.json; give an empty folder as --output-path$"):
        encode("theirs")
