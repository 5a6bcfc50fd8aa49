"""The dataset types wds and s3, on shards of this machine."""

import json
import random

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save

from stable_audio_tools.audio import load, normalized_crop
from stable_audio_tools.config.check import check_dataset_config
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config
from stable_audio_tools.data.metadata import RESERVED
from stable_audio_tools.data.shards.pack import PackOptions, pack
from stable_audio_tools.data.shards.silence import remove_long_silence
from stable_audio_tools.errors import ConfigError, DataError


def config_of(folder, **options):
    entry = {key: options.pop(key) for key in ("custom_metadata_module", "caption", "weight") if key in options}
    settings = {"resampled_shards": False, "drop_last": False, "augment_phase": False, **options}
    return {"dataset_type": "wds", "datasets": [{"id": "here", "path": str(folder), **entry}], **settings}


def loader_of(folder, *, workers=0, batch=2, size=2000, rate=8000, channels=1, shuffle=True, **options):
    config = config_of(folder, **options)
    return create_dataloader_from_config(config, batch, size, rate, channels, num_workers=workers, shuffle=shuffle, seed=3)


def items(loader):
    """Every item of a pass: audio and metadata."""
    return [(audio, info) for batch, infos in loader for audio, info in zip(batch, infos, strict=True)]


def numbers(loader):
    return [info["number"] for _, info in items(loader)]


@pytest.fixture
def shards(tmp_path, write_shards):
    return write_shards(tmp_path / "shards")


# ---- what an item is -------------------------------------------------------------------------------------------------------------------


def test_an_item_is_what_a_folder_gives_with_the_samples_own_metadata(shards):
    found = items(loader_of(shards))
    assert sorted(info["number"] for _, info in found) == list(range(10))
    for audio, info in found:
        assert {*RESERVED, "prompt", "text", "number", "__key__", "__url__"} == set(info)
        assert info["prompt"] == f"clip {info['number']}"
        assert info["relpath"] == f"a/{info['number']:03}.wav" and info["__key__"] == f"a/{info['number']:03}"
        assert info["path"] == f"{info['__url__']}#{info['relpath']}" and info["__url__"].startswith(str(shards))
        assert info["padding_mask"].shape == (2000,) and info["seconds_start"] == 0 and info["seconds_total"] == 1
        assert audio.shape == (1, 2000)
        assert (audio - (info["number"] + 1) / 100).abs().max() < 1e-4


def test_a_crop_of_a_shard_is_the_crop_of_the_file(shared, tmp_path, write_tar):
    """Real files: long and short, resampled, at a random place. Only the crop is decoded; it equals a slice of the whole."""
    paths = sorted((shared / "data" / "real-music").rglob("*.ogg"))[:2] + sorted((shared / "data" / "real-oneshots").rglob("*.flac"))[:2]
    assert len(paths) >= 3
    write_tar(tmp_path / "s" / "0.tar", {f"{number}.{path.suffix[1:]}": path.read_bytes() for number, path in enumerate(paths)})
    loader = loader_of(tmp_path / "s", size=30_000, rate=22050, channels=2, silence_threshold_db=None)
    for index, path in enumerate(paths):
        audio, info = loader.dataset[ItemKey(index, 2, 9)]
        crop = normalized_crop(load(path, sample_rate=22050).samples, 30_000, 22050, randomize=True, rng=random.Random(f"9/2/{index}"))
        assert info["__key__"] == str(index)
        assert info["timestamps"] == (crop.t_start, crop.t_end)
        assert (audio - crop.audio.clamp(-1, 1)).abs().max() < 1e-5
        assert info["padding_mask"].equal(crop.padding_mask)


def test_captions_come_from_text_json_or_the_entry(tmp_path, write_tar, wav):
    sounds = {
        "plain.wav": wav(seed=1), "told.wav": wav(seed=2), "told.txt": b" a bell\n", "both.wav": wav(seed=3), "both.txt": b"no",
        "both.json": b'{"caption": "a drum", "relpath": "deep/both.flac", "seconds_total": 99}',
    }  # fmt: skip
    write_tar(tmp_path / "s" / "0.tar", sounds)
    found = {info["__key__"]: info for _, info in items(loader_of(tmp_path / "s", caption="a sound"))}
    assert {key: info["prompt"] for key, info in found.items()} == {"plain": "a sound", "told": "a bell", "both": "a drum"}
    assert found["both"]["relpath"] == "deep/both.flac", "where it was before it was packed"
    assert found["both"]["seconds_total"] == 1, "what is measured is not believed"


def test_a_metadata_module_rejects_adds_and_replaces(shards, tmp_path, caplog):
    (tmp_path / "module.py").write_text(
        "import torch\n"
        "def get_custom_metadata(info, audio):\n"
        "    if info['number'] == 4: return {'__reject__': True}\n"
        "    if info['number'] == 5: return {'__replace__': torch.full((1, 2000), 0.9), 'new': 'prompt'}\n"
        "    return {'prompt': info['__key__'], '__audio__': {'more': torch.full((2, 4000), 0.3)}}\n"
    )
    found = items(loader_of(shards, custom_metadata_module=str(tmp_path / "module.py")))
    by_number = {info["number"]: (audio, info) for audio, info in found}
    assert 4 not in by_number and len(found) == 10
    assert float(by_number[5][0].mean()) == pytest.approx(0.9) and by_number[5][1]["new"] == "prompt"
    _, info = by_number[7]
    assert info["prompt"] == "a/007" and info["more"].equal(torch.full((1, 2000), 0.3))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_has_each_sample_once_with_real_workers(shards, workers):
    loader = loader_of(shards, workers=workers)
    passes = [numbers(loader) for _ in range(3)]
    assert all(sorted(seen) == list(range(10)) for seen in passes)
    assert passes[0] != passes[1]
    assert numbers(loader_of(shards, workers=workers, shuffle=False)) == list(range(10))


@pytest.mark.parametrize("options", [{"resampled_shards": False}, {"resampled_shards": True, "epoch_steps": 8}])
def test_a_resumed_pass_goes_on_with_the_next_item(shards, options):
    def state_of(batches):
        return [(info["number"], info["timestamps"], float(audio.sum())) for audio, info in items(batches)]

    whole = state_of(loader_of(shards, workers=2, **options))
    first = loader_of(shards, workers=2, **options)
    batches = iter(first)
    seen = state_of([next(batches) for _ in range(2)])
    resumed = loader_of(shards, workers=2, **options)
    resumed.load_state_dict(first.state_dict())
    assert seen + state_of(resumed) == whole


def test_draws_are_as_many_as_asked_and_follow_weights(tmp_path, write_shards):
    rare, often = write_shards(tmp_path / "rare", [10]), write_shards(tmp_path / "often", [10])
    config = config_of(rare, resampled_shards=True, epoch_steps=100)
    config["datasets"].append({"id": "often", "path": str(often), "weight": 4.0})
    loader = create_dataloader_from_config(config, 2, 500, 8000, 1, num_workers=0, seed=1)
    assert len(loader) == 100
    share = np.mean(["often" in info["path"] for _, info in items(loader)])
    assert 0.6 < share < 0.95
    with pytest.raises(ConfigError, match=r'^weights differ, which needs draws with repetition: write "resampled_shards": true'):
        create_dataloader_from_config({**config, "resampled_shards": False}, 2, 500, 8000, 1)


def test_long_silences_are_shortened():
    rate, rng = 1000, random.Random(0)
    tone = torch.full((2, 400), 0.5)
    audio = torch.cat([tone, torch.zeros(2, 2000), tone, torch.zeros(2, 200), tone, torch.zeros(2, 400)], dim=1)
    short = remove_long_silence(audio, rate, level=0.01, kept_seconds=0.5, max_seconds=0.25, rng=rng)
    assert short.shape == (2, 3 * 400 + 500 + 200 + 400), "one of 0.4 s is long, but shorter than what is kept"
    assert short[:, 400:900].abs().max() == 0 and short[:, 900:1300].equal(tone)
    assert remove_long_silence(tone, rate, level=0.01, kept_seconds=0.5, max_seconds=0.25, rng=rng).equal(tone)
    assert remove_long_silence(tone[:, :0], rate, level=0.01, kept_seconds=0.5, max_seconds=0.25, rng=rng).shape == (2, 0)


def test_remove_silence_and_volume_norm_reach_the_items(tmp_path, write_tar, wav):
    import io

    file = io.BytesIO()
    noise = 0.01 * np.random.default_rng(0).standard_normal(4000)
    soundfile.write(file, np.concatenate([noise, np.zeros(16_000), noise]), 8000, format="WAV")
    write_tar(tmp_path / "s" / "0.tar", {"0.wav": file.getvalue()})
    options = {"remove_silence": True, "silence_threshold": [1e-5, 0.5], "random_crop": False}
    ((audio, info),) = items(loader_of(tmp_path / "s", size=16_000, batch=1, **options))
    assert int(info["padding_mask"].sum()) == 12_000 and info["seconds_total"] == 2
    assert audio[0, 4100:7900].abs().max() == 0 and audio[0, 8100:11_900].abs().max() > 0.01
    ((loud, _),) = items(loader_of(tmp_path / "s", size=16_000, batch=1, volume_norm=True, volume_norm_param=[-20, 0], **options))
    assert float(loud.square().mean()) > 10 * float(audio.square().mean())


# ---- latents -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def latents(tmp_path, write_tar):
    """Samples of 5 to 9 frames, of which the last is padding; frame f of sample s is 10 s + f."""
    import io

    members = {}
    for number in range(5):
        file = io.BytesIO()
        count = 5 + number
        np.save(file, (10 * number + np.arange(count, dtype=np.float32))[None].repeat(4, axis=0))
        mask = [1] * (count - 1) + [0]
        members[f"{number}.npy"] = file.getvalue()
        members[f"{number}.json"] = json.dumps({"prompt": f"{number}", "padding_mask": mask, "seconds_total": number}).encode()
    return write_tar(tmp_path / "latents" / "0.tar", members).parent


def test_latents_are_cropped_and_padded_to_one_length(latents):
    loader = loader_of(latents, pre_encoded=True, latent_crop_length=6, batch=5)
    starts = set()
    for _ in range(30):
        ((batch, infos),) = loader
        assert batch.shape == (5, 4, 6)
        for item, info in zip(batch, infos, strict=True):
            number, start = int(info["prompt"]), info["latent_crop_start"]
            held = min(6, 5 + number - start)
            assert item[0, :held].tolist() == [10 * number + start + frame for frame in range(held)]
            assert info["padding_mask"].tolist() == [float(start + frame < 4 + number) for frame in range(6)]
            assert info["audio"].equal(item) and info["latent_filename"].endswith(f"#{number}.npy")
            assert start + 6 <= max(6, 4 + number), "no crop holds padding that need not"
            starts.add((number, start))
    assert {start for number, start in starts if number == 4} == {0, 1, 2}


def test_latents_are_chosen_by_length_and_by_a_module(latents, tmp_path):
    (tmp_path / "m.py").write_text("def get_custom_metadata(info, latents):\n    return {'__reject__': info['prompt'] == '3'}\n")
    loader = loader_of(
        latents, pre_encoded=True, latent_crop_length=4, min_length_sec=1, max_length_sec=3, custom_metadata_module=str(tmp_path / "m.py")
    )
    assert {info["prompt"] for _, info in items(loader)} == {"1", "2"}
    assert "2 of" not in loader.dataset.summary() and "rejected" in loader.dataset.summary()


def test_keys_of_audio_that_latents_have_no_use_for_are_said(tmp_path, write_tar, caplog):
    write_tar(tmp_path / "l" / "0.tar", {"a.safetensors": save({"latents": torch.zeros(4, 6)}), "a.json": b"{}"})
    loader_of(tmp_path / "l", batch=1, pre_encoded=True, silence_threshold=[0.01, 0.5], silence_threshold_db=None)
    assert "has no effect" not in caplog.text
    loader_of(tmp_path / "l", batch=1, pre_encoded=True, volume_norm=True, remove_silence=True, silence_threshold_db=-50)
    for key in ("volume_norm", "remove_silence", "silence_threshold_db"):
        assert f"{key} has no effect on shards of latents, which are what was encoded" in caplog.text
    assert caplog.text.count("has no effect") == 3


def test_keys_of_latents_that_audio_has_no_use_for_are_said(shards, caplog):
    loader_of(shards)
    assert "has no effect" not in caplog.text
    loader_of(shards, latent_crop_length=4, min_length_sec=1, sample=False)
    for key in ("latent_crop_length", "min_length_sec", "sample"):
        assert f'{key} has no effect on shards of audio; is "pre_encoded": true missing?' in caplog.text


def test_audio_and_latents_are_not_confused(latents, shards):
    with pytest.raises(DataError, match=r'no samples with audio in 1 shard, but 5 other samples, first .*0.tar#0; is "pre_encoded" set'):
        loader_of(latents)
    with pytest.raises(DataError, match=r"no samples with latents \(.npy or .safetensors\) in 3 shards, but 10 other samples"):
        loader_of(shards, pre_encoded=True)


# ---- batches of one length -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sounds(tmp_path):
    """Twelve noises of 0.1 to 0.6 s, which their names say."""
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number in range(12):
        seconds = 0.1 * (1 + number % 6)
        soundfile.write(folder / f"{number}-{round(8000 * seconds)}.wav", np.full(round(8000 * seconds), 0.5), 8000)
    return folder


def real_samples(info):
    return int(info["__key__"].rsplit("-", 1)[1])


@pytest.mark.parametrize("workers", [0, 2])
def test_audio_comes_in_batches_of_similar_length(sounds, tmp_path, workers):
    pack(sounds, str(tmp_path / "packed"), PackOptions(shard_samples=5))
    options = {"length_buckets": [1000, 2000, 4000], "size": 5000, "workers": workers, "batch": 3}
    seen = []
    for audio, infos in loader_of(tmp_path / "packed", **options):
        assert audio.shape[-1] in (1000, 2000, 4000)
        for info in infos:
            assert int(info["padding_mask"].sum()) == min(real_samples(info), audio.shape[-1])
            assert audio.shape[-1] == 4000 or audio.shape[-1] >= real_samples(info)
            seen.append(info["__key__"])
    assert sorted(seen) == sorted(path.stem for path in sounds.iterdir())


def test_messages_of_shards_name_no_manifest_and_no_command_that_refuses_them(sounds, tmp_path, caplog):
    pack(sounds, str(tmp_path / "packed"))
    (said,) = (tmp_path / "packed").glob("*.jsonl")
    lines = [json.loads(line) for line in said.read_text().splitlines()]
    said.write_text("".join(json.dumps({**line, "frames": line["frames"] if index else 0}) + "\n" for index, line in enumerate(lines)))
    options = {"length_buckets": [1000, 5000], "size": 5000}
    assert loader_of(tmp_path / "packed", **options).dataset.num_unreadable == 1
    assert f"left out, as what is written down beside them says: 1 of {len(lines)} files unreadable" in caplog.text
    with pytest.raises(DataError, match=r"files cannot be decoded: mend or remove them, or allow more with max_unreadable_share$"):
        loader_of(tmp_path / "packed", max_unreadable_share=0.01, **options)


def test_lengths_are_found_out_where_shards_are_near_and_nobody_wrote_them_down(sounds, tmp_path):
    pack(sounds, str(tmp_path / "packed"))
    said = loader_of(tmp_path / "packed", length_buckets=[1000, 5000], size=5000).dataset
    for path in (tmp_path / "packed").glob("*.jsonl"):
        path.unlink()
    found = loader_of(tmp_path / "packed", length_buckets=[1000, 5000], size=5000).dataset
    assert found.bucket_lengths == said.bucket_lengths and set(found.bucket_lengths) == {1000, 5000}
    assert found.states.lengths.equal(said.states.lengths) and found.states.rates.equal(said.states.rates)


@pytest.mark.parametrize("kind", ["audio", "latents"])
def test_lengths_from_afar_are_those_that_were_written_down_and_nothing_is_fetched_to_find_out(sounds, latents, kind):
    """A memory store stands for any other that is not on this machine."""
    import fsspec

    options = (
        {"length_buckets": [7, 9], "pre_encoded": True, "random_crop": False} if kind == "latents" else {"length_buckets": [1000, 5000]}
    )
    name = f"{kind}{random.random()}"
    url = f"memory://{name}"
    if kind == "audio":
        pack(sounds, url)
    else:
        fsspec.filesystem("memory").pipe_file(f"{url}/0.tar", (latents / "0.tar").read_bytes())
        said = [json.dumps({"id": str(number), "frames": 4 + number}) + "\n" for number in range(5)]
        fsspec.filesystem("memory").pipe_file(f"{url}/0.jsonl", "".join(said).encode())
    loader = loader_of(url, size=5000, **options)
    assert {batch.shape[-1] for batch, _ in loader} == set(options["length_buckets"])
    fs = fsspec.filesystem("memory")
    for path in fs.glob(f"{url}/*.jsonl"):
        fs.rm(path)
    message = rf"^length_buckets: nothing beside memory:///{name}/\w+.tar says how long its samples are \(\d+ of \d+ are not known\), and"
    with pytest.raises(DataError, match=message):
        loader_of(url, size=5000, **options)


def test_shards_of_pre_encoding_have_the_lengths_that_its_journal_says(latents):
    (latents / "journal.jsonl").write_text("".join(json.dumps({"id": str(number), "frames": 9 - number}) + "\n" for number in range(4)))
    data = loader_of(latents, pre_encoded=True, length_buckets=[6, 7, 8, 9]).dataset
    assert data.bucket_lengths == [9, 8, 7, 6, 8], "the last is in no journal: its mask says 8"


def test_a_pass_of_batches_by_length_is_resumed(sounds, tmp_path):
    pack(sounds, str(tmp_path / "packed"), PackOptions(shard_samples=5))

    def state_of(batches):
        return [(audio.shape, [info["__key__"] for info in infos], float(audio.sum())) for audio, infos in batches]

    def load(workers):
        return loader_of(tmp_path / "packed", length_buckets=[1000, 2000, 4000], size=5000, workers=workers, batch=2)

    whole, first = state_of(load(2)), load(2)
    batches = iter(first)
    seen = state_of([next(batches) for _ in range(2)])
    resumed = load(2)
    resumed.load_state_dict(first.state_dict())
    assert seen + state_of(resumed) == whole


def test_what_length_buckets_cannot_be_with(sounds, tmp_path):
    pack(sounds, str(tmp_path / "packed"))
    with pytest.raises(DataError, match=r"^length_buckets and remove_silence do not go together: it changes the lengths that batches are"):
        loader_of(tmp_path / "packed", length_buckets=[1000], remove_silence=True)
    with pytest.raises(DataError, match=r"^length_buckets: 9000 samples are more than sample_size, which is 2000$"):
        loader_of(tmp_path / "packed", length_buckets=[9000])
    (tmp_path / "packed" / "00000.jsonl").write_text("odd\n")
    with pytest.raises(DataError, match=r"00000\.jsonl:1: not valid JSON; was it edited\?$"):
        loader_of(tmp_path / "packed", length_buckets=[1000])


# ---- from a web server -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["audio", "latents"])
def test_what_a_web_server_has_is_what_the_folder_has_over_connections_that_are_cut(shards, latents, serve, cutter, kind):
    folder, options = (shards, {}) if kind == "audio" else (latents, {"pre_encoded": True, "latent_crop_length": 6})
    proxy = cutter(serve(folder).server_port, cuts=[1500, 0, 3000])
    number = len(list(folder.glob("*.tar")))
    names = f"{proxy.url}/{{0..{number - 1}}}.tar"
    expected, found = loader_of(folder, **options), loader_of(names, **options)
    for (one, infos), (other, others) in zip(expected, found, strict=True):
        assert one.equal(other) and [info["__key__"] for info in infos] == [info["__key__"] for info in others]
    assert proxy.num_cut >= 2 and found.dataset.num_skipped == 0


# ---- when data is bad --------------------------------------------------------------------------------------------------------------------


def test_samples_that_cannot_be_read_are_counted_and_named_once(tmp_path, write_tar, wav, caplog):
    members = {f"{number}.wav": wav(seed=number) for number in range(8)}
    members |= {"8.wav": b"RIFFnothing", "9.wav": wav(seed=9), "9.json": b"{broken", "a.wav": wav(seed=10), "a.json": b"[1]", "b.txt": b"x"}
    write_tar(tmp_path / "s" / "0.tar", members)
    loader = loader_of(tmp_path / "s", max_unreadable_share=0.5)
    for _ in range(3):
        assert {info["__key__"] for _, info in items(loader)} <= set("01234567")
    assert loader.dataset.num_unreadable == 4
    for part in ("3 of 11 files unreadable (", "0.tar#8.wav", "1 sample without audio, first ", "0.tar#b"):
        assert part in loader.dataset.summary(), part
    skipped = [message for message in caplog.messages if message.startswith("skipped: ")]
    assert len(skipped) == 3
    assert any("0.tar#9.json: not valid JSON" in message for message in skipped)
    assert any("0.tar#a.json: holds list, not an object" in message for message in skipped)
    with pytest.raises(DataError, match=r"more than 10% of 11 files"):
        items(loader_of(tmp_path / "s"))


def test_a_shard_that_is_cut_off_is_an_error_or_a_counted_loss(shards, caplog):
    last = shards / "2.tar"
    last.write_bytes(last.read_bytes()[:25_000])
    with pytest.raises(DataError, match=r'2.tar: cut off in a/007.wav: 25000 bytes of at least \d+; .*"broken_shards": "keep"'):
        loader_of(shards)
    loader = loader_of(shards, broken_shards="keep")
    assert sorted(numbers(loader)) == list(range(7))
    assert "2.tar: cut off in a/007.wav" in loader.dataset.summary() and loader.dataset.num_unreadable == 1
    assert "used: 2 whole samples; what followed is lost" in caplog.text


def test_a_shard_with_fewer_samples_than_its_manifest_says_is_broken(shards):
    shard_list = [{"url": f"{number}.tar", "nsamples": count} for number, count in enumerate((4, 1, 6))]
    (shards / "index.json").write_text(json.dumps({"shardlist": shard_list}))
    with pytest.raises(DataError, match=r"2.tar: 5 samples, but its manifest says 6"):
        loader_of(shards)


# ---- configs -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"id": "a"}, "needs path (a folder or any URL) or s3_path, and not both"),
        ({"id": "a", "path": "x", "s3_path": "s3://x"}, "needs path (a folder or any URL) or s3_path, and not both"),
        ({"id": "a", "path": "https://x", "profile": "me"}, "profile and endpoint_url are for S3"),
        ({"id": "a", "path": "x", "weight": 0}, "greater than 0"),
    ],
)
def test_entries_that_lie_nowhere_are_refused(entry, message):
    for kind in ("wds", "s3"):
        mistakes = check_dataset_config({"dataset_type": kind, "datasets": [entry]})
        assert any(message in mistake.message for mistake in mistakes), mistakes


def test_the_configs_of_the_reference_are_accepted():
    entries = [{"id": "s3-test", "s3_path": "s3://my-bucket/datasets/webdataset/audio/", "profile": "me"}, {"id": "b", "path": "/data"}]
    options = {
        "remove_silence": False, "silence_threshold": [0.01, 0.5], "max_silence_duration": 0.25, "random_crop": True, "volume_norm": False,
        "volume_norm_param": [-16, 2], "epoch_steps": 2000, "pre_encoded": False, "latent_crop_length": None, "resampled_shards": True,
    }  # fmt: skip
    for kind in ("wds", "s3"):
        assert check_dataset_config({"dataset_type": kind, "datasets": entries, **options}) == []
