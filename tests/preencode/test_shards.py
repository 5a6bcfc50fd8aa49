"""Latents in shards are what latents in folders are, whoever made the shards."""

import json
import pickle
import random
import tarfile

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from stable_audio_tools.config.check import check_dataset_config
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataset_from_config
from stable_audio_tools.data.shards.pack import PackOptions, pack
from stable_audio_tools.errors import DataError
from stable_audio_tools.preencode.machines import Place

RATE = 8000


def folder_of(path, **options):
    config = {"dataset_type": "pre_encoded", "datasets": [{"id": "a", "path": str(path)}], **options}
    return create_dataset_from_config(config, 4096, RATE, 1)


def shards_of(*paths, rate=RATE, **options):
    entries = [{"id": "a", "path": str(path)} for path in paths]
    config = {"dataset_type": "wds", "datasets": entries, "pre_encoded": True, "random_crop": False, **options}
    assert check_dataset_config(config) == []
    return create_dataset_from_config(config, 4096, rate, 1)


def items_of(dataset, epochs=2):
    """Items by the file that they were made of, in several passes; drawn as a loader would, whatever their order in the dataset."""
    found = {}
    for index in range(len(dataset)):
        relpath = dataset[ItemKey(index, 0, 7)][1]["relpath"]
        for epoch in range(epochs):
            found[relpath, epoch] = dataset.attempt(index, random.Random(f"{relpath} {epoch}"), None)
    return found


def assert_equal(folder, shards):
    expected, found = items_of(folder), items_of(shards)
    assert expected.keys() == found.keys() and expected
    for key, (latents, metadata) in expected.items():
        item, said = found[key]
        assert item.equal(latents) and item.dtype == latents.dtype, key
        assert said.keys() - metadata.keys() == {"__key__", "__url__"}
        for name in metadata.keys() - {"latent_filename"}:
            same = torch.equal(said[name], value) if isinstance(value := metadata[name], torch.Tensor) else said[name] == value
            assert same, (key, name)


CROPS = [{}, {"latent_crop_length": 40, "random_crop": True}, {"latent_crop_length": 300}]


@pytest.mark.parametrize("stored", [{}, {"store": "mean-scale"}, {"store": "mean", "pad": False}, {"dtype": "fp16"}])
def test_shards_of_pre_encoding_are_what_its_folders_are(encode, stored):
    folder, shards = encode("folder", **stored).folder, encode("shards", format="wds", **stored).folder
    assert (shards / "silence.npy").read_bytes() == (folder / "silence.npy").read_bytes()
    for options in CROPS:
        assert_equal(folder_of(folder, **options), shards_of(shards, **options))
    for path in (shards / "0", f"{shards}/0/{{000000000..000000002}}.tar"):
        assert_equal(folder_of(folder), shards_of(path))  # what is said of all of them lies above
    if "store" in stored:
        assert_equal(folder_of(folder, sample=False), shards_of(shards, sample=False))


def test_what_is_said_of_all_is_found_above_several_folders(encode):
    store = encode(format="wds").folder
    (store / "1").mkdir()
    (store / "0" / "000000002.tar").rename(store / "1" / "000000002.tar")
    data = shards_of(f"{store}/{{0/000000000,0/000000001,1/000000002}}.tar")
    assert len(data) == 10 and [facts.card["format"] for facts in data.files.stores] == ["wds"]
    assert data.files.stores[0].silence is not None


@pytest.mark.parametrize("stored", [{}, {"store": "mean-scale", "pad": False}, {"format": "safetensors", "dtype": "bf16"}])
def test_packed_shards_are_what_the_folder_is(encode, stored, tmp_path):
    folder = encode("folder", **stored).folder
    pack(folder, str(tmp_path / "packed"), PackOptions(shard_samples=4))
    for options in CROPS:
        assert_equal(folder_of(folder, **options), shards_of(tmp_path / "packed", **options))
    with pytest.raises(DataError, match=r'packed: holds WebDataset shards; use "dataset_type": "wds" with "pre_encoded": true$'):
        folder_of(tmp_path / "packed")


def test_the_prompt_of_latents_stays_their_prompt_beside_a_text(encode, sounds, tmp_path):
    (tmp_path / "module.py").write_text("def get_custom_metadata(info, audio):\n    return {'text': 'odd'}\n")
    data = {"dataset_type": "audio_dir", "random_crop": False}
    data["datasets"] = [{"id": "a", "path": str(sounds), "custom_metadata_module": str(tmp_path / "module.py")}]
    folder, shards = (encode(name, format=name, dataset_config=data).folder for name in ("npy", "wds"))
    assert folder_of(folder)[0][1]["prompt"] == "noise 0" and folder_of(folder)[0][1]["text"] == "odd"
    pack(folder, str(tmp_path / "packed"))
    for path in (shards, tmp_path / "packed"):
        assert_equal(folder_of(folder), shards_of(path))


def test_mean_and_scale_in_shards_are_drawn_anew_each_pass_as_in_folders(encode):
    """By item, pass and seed alone: the same key gives the same draw, from either."""
    folder = folder_of(encode("folder", store="mean-scale", shard_size=20).folder)
    shards = shards_of(encode("shards", store="mean-scale", format="wds", shard_size=20).folder)
    keys = [ItemKey(index, epoch, 5) for epoch in range(3) for index in range(10)]
    drawn = [shards[key][0] for key in keys]
    assert all(one.equal(folder[key][0]) for one, key in zip(drawn, keys, strict=True))
    assert not drawn[0].equal(drawn[10]) and drawn[0].shape == (4, 256)


def test_workers_that_are_started_anew_read_the_same(encode):
    """As with the start method spawn, which hands datasets over in pickled form."""
    folder, shards = folder_of(encode("folder").folder), shards_of(encode("shards", format="wds").folder)
    for dataset in (folder, shards):
        copy = pickle.loads(pickle.dumps(dataset))
        assert all(copy[index][0].equal(dataset[index][0]) for index in range(10))


def test_clips_are_left_out_by_their_length_before_a_pass_begins(encode, tmp_path):
    """As in folders: a pass has each of those that are left once. Journals and files of lengths say it, or else the JSON members."""
    folder = encode("folder").folder
    for path in folder.glob("0/*.json"):
        metadata = json.loads(path.read_text())
        path.write_text(json.dumps({**metadata, "seconds_total": int(metadata["relpath"][:2])}))
    (folder / "0" / "journal.jsonl").unlink()
    pack(folder, str(tmp_path / "packed"))
    options = {"min_length_sec": 3, "max_length_sec": 6}
    expected = folder_of(folder, **options)
    assert len(expected) == 4
    assert_equal(expected, shards_of(tmp_path / "packed", **options))
    for path in (tmp_path / "packed").glob("*.jsonl"):
        path.unlink()
    assert_equal(expected, shards_of(tmp_path / "packed", **options))
    with pytest.raises(DataError, match=r"^none of 10 items has a seconds_total of 50 to inf; see min_ and max_length_sec$"):
        shards_of(tmp_path / "packed", min_length_sec=50)


@pytest.mark.parametrize("which", ["", "/1"])
@pytest.mark.parametrize("killed", [1, 0])
def test_lengths_from_afar_are_known_whoever_went_on_with_the_work(encode, killed, which):
    """Two processes; one is killed after its shard has its name, before the journal says so. Then one goes on, or three do."""
    for rank in range(2):
        folder = encode("store", Place(rank, 2), format="wds").folder
    (folder / str(killed) / "journal.jsonl").write_text("")
    for rank in range(3 if killed == 0 else 1):
        assert encode("store", Place(rank, 3 if killed == 0 else 1), format="wds").written == 0
    expected = shards_of(f"{folder}{which}", length_buckets=[8, 128, 256]).bucket_lengths
    fs = fsspec.filesystem("memory")
    fs.put(str(folder), name := f"/afar{random.random()}", recursive=True)
    data = shards_of(f"memory:/{name}{which}", length_buckets=[8, 128, 256])
    assert data.bucket_lengths == expected


def test_cached_texts_lie_beside_shards_too(encode, write_model, tiny_diffusion, tmp_path):
    options = {**write_model(tiny_diffusion()).options, "sample_size": None, "cache_conditions": ["prompt"]}
    folder, shards = encode("folder", **options).folder, encode("shards", format="wds", **options).folder
    pack(folder, str(tmp_path / "packed"))
    for path in (shards, tmp_path / "packed"):
        assert_equal(folder_of(folder, cached_conditions=["prompt"]), shards_of(path, cached_conditions=["prompt"]))
    with pytest.raises(DataError, match=r"prompt 'noise 0' was not cached; run sat pre-encode with --cache-conditions prompt$"):
        shards_of(encode("bare", format="wds").folder, cached_conditions=["prompt"])[0]


# ---- what cannot be: the same messages as of folders ----------------------------------------------------------------------------------


def write_shard(path, members):
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w") as tar:
        for name, file in members.items():
            tar.add(file, name)


def test_stores_that_do_not_go_together(encode, write_model, oobleck_config, tmp_path):
    other = write_model(oobleck_config(latent_dim=6))
    one, two = encode("one", format="wds").folder, encode("two", format="wds", **other.options).folder
    with pytest.raises(DataError, match=r"hold latents of different widths: .*one 4, .*two 6; they were encoded by different models$"):
        shards_of(one, two)
    for folder in (one, two):
        (folder / "card.json").unlink()
    with pytest.raises(DataError, match=r"hold latents of different widths: .*one 4, .*two 6; they were"):
        shards_of(one, two)
    with pytest.raises(DataError, match=r"again: was encoded at 8000 Hz, but the model works at 16000 Hz$"):
        shards_of(encode("again", format="wds").folder, rate=16000)


def test_items_that_cannot_be_read_are_counted_and_named(encode, tmp_path, caplog):
    folder = encode(format="safetensors").folder / "0"
    files = {path.name: path for path in sorted(folder.glob("0*"))}
    (tmp_path / "odd").write_bytes(b"odd")
    save_file({"something": torch.zeros(2, 2)}, tmp_path / "else")
    (tmp_path / "list").write_text("[]")
    write_shard(
        tmp_path / "shards" / "0.tar",
        {**files, "0000000000000.safetensors": tmp_path / "odd", "0000000000001.safetensors": tmp_path / "else",
         "0000000000002.json": tmp_path / "list", "alone.safetensors": folder / "0000000000003.safetensors"},
    )  # fmt: skip
    data, strict = (shards_of(tmp_path / "shards", max_unreadable_share=share, latent_crop_length=9) for share in (0.5, 0.1))
    assert all(data[ItemKey(index, 0, 0)][0].shape == (4, 9) for index in range(len(data)))
    assert data.num_unreadable == 4 and data.summary().startswith("4 of 11 files unreadable (")
    for message in (
        "0.tar#0000000000000.safetensors: cannot be read as latents: no whole .safetensors file of numbers",
        "0.tar#0000000000001.safetensors: cannot be read as latents",
        "0.tar#0000000000002.json: holds list, not an object",
        "0.tar#alone.safetensors: has no .json member beside it, which each sample of latents has",
    ):
        assert caplog.text.count(message) == 1, message
    with pytest.raises(DataError, match=r"more than 10% of 11 files cannot be decoded: mend or remove them, or allow more with max_unr"):
        [strict[index] for index in range(11)]


def test_masks_that_do_not_fit(encode, tmp_path):
    folder = encode(pad=False).folder / "0"
    write_shard(tmp_path / "s" / "0.tar", {"a.npy": folder / "0000000000000.npy", "a.json": folder / "0000000000001.json"})
    with pytest.raises(DataError, match=r"0\.tar#a\.npy: 25 frames, but a padding_mask of 60; were its files mixed up\?$"):
        shards_of(tmp_path / "s")[0]


def test_two_ways_to_say_how_long_items_are(encode):
    with pytest.raises(DataError, match=r"^latent_crop_length and length_buckets both say how long items are; give one of them$"):
        shards_of(encode(format="wds").folder, latent_crop_length=4, length_buckets=[4])


def test_latents_of_the_same_name_twice_are_not_packed(encode, tmp_path):
    folder = encode().folder
    (folder / "0" / "0000000000000.safetensors").touch()
    with pytest.raises(DataError, match=r"holds \.npy and \.safetensors files; are they the same latents twice\? Keep those of one kind$"):
        pack(folder, str(tmp_path / "out"))
