"""Every option that only shards have, on real files."""

import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from stable_audio_tools.audio import force_channels, load
from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config, create_dataset_from_config
from stable_audio_tools.data.shards.pack import PackOptions, pack
from stable_audio_tools.data.store_facts import condition_path
from stable_audio_tools.errors import DataError
from tests.data.conftest import SHARDS, SOUNDS
from tests.data.test_options_on_real_files import RATE, SIZE, items, proofs

every_kind = pytest.mark.parametrize("kind", SHARDS)


def loader_of(config, *, batch=3, seed=0):
    return create_dataloader_from_config(config, batch, SIZE, RATE, 1, num_workers=0, seed=seed)


def names_of(loader):
    return [info["relpath"] for _, infos in loader for info in infos]


# ---- order --------------------------------------------------------------------------------------------------------------------------


@proofs.of("resampled_shards", "epoch_steps", kinds=SHARDS)
@every_kind
def test_shards_are_drawn_or_each_sample_comes_once(config_of, kind):
    drawn = names_of(loader_of(config_of(kind, resampled_shards=True, epoch_steps=9)))
    assert len(drawn) == 27 and set(drawn) <= set(SOUNDS)
    assert sorted(names_of(loader_of(config_of(kind, resampled_shards=False, epoch_steps=9)))) == sorted(SOUNDS)


@proofs.of("shuffle_buffer", kinds=SHARDS)
@every_kind
def test_shuffle_buffer(config_of, kind):
    def shards_in_order(buffer):
        return [info["__url__"] for _, infos in loader_of(config_of(kind, shuffle_buffer=buffer)) for info in infos]

    def changes(urls):
        return sum(one != two for one, two in itertools.pairwise(urls))

    assert changes(shards_in_order(0)) == 2, "three shards, one after the other"
    assert changes(shards_in_order(100)) > 4


@proofs.of("weight", kinds=SHARDS)
@every_kind
def test_weight(config_of, shared, tmp_path, kind):
    pack(shared / "data/real-oneshots/dirt-bass1", str(tmp_path / "bass"))
    config = config_of(kind, resampled_shards=True, epoch_steps=100)
    config["datasets"].append({"id": "bass", "path": str(tmp_path / "bass"), "weight": 20.0})
    share = np.mean(["bass-hit" in name for name in names_of(loader_of(config))])
    assert share > 0.75
    config["datasets"][1]["weight"] = 1.0
    assert np.mean(["bass-hit" in name for name in names_of(loader_of(config))]) < 0.65


# ---- silence ------------------------------------------------------------------------------------------------------------------------


@proofs.of("remove_silence", "silence_threshold", "max_silence_duration", kinds=SHARDS)
@every_kind
@pytest.mark.parametrize(("level", "kept", "longest"), [(0.001, 0.5, 0.25), (0.05, 0.5, 0.25), (0.001, 0.1, 0.25), (0.001, 0.5, 9.0)])
def test_remove_silence(config_of, sounds, kind, level, kept, longest):
    config = config_of(kind, remove_silence=True, silence_threshold=[level, kept], max_silence_duration=longest)
    found = {name: int(info["padding_mask"].sum()) for (name, _), (_, info) in items(config, size=8 * RATE).items()}
    for name, length in found.items():
        is_loud = load(sounds / name, sample_rate=RATE).samples.abs().amax(0).numpy() >= level
        edges = np.flatnonzero(np.diff(np.r_[True, is_loud, True].astype(int)))
        silences = np.diff(edges)[::2]  # samples
        gone = [run - int(kept * RATE) for run in silences if run > longest * RATE and run > int(kept * RATE)]
        assert length == len(is_loud) - sum(gone), name
    plain = load(sounds / SOUNDS[5], sample_rate=RATE).samples.shape[-1]
    assert (found[SOUNDS[5]] < plain) == (longest < 9), "the sneeze has a silent end"


# ---- latents ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def latents(sounds, tmp_path_factory):
    """Patches of the real sounds: frame f of a sound is its samples 16 f to 16 f + 16 at 8 kHz."""
    folder = tmp_path_factory.mktemp("latents")
    for number, name in enumerate(SOUNDS):
        audio = force_channels(load(sounds / name, sample_rate=8000).samples, 1)[0]
        frames = audio[: len(audio) // 16 * 16].reshape(-1, 16).T.numpy()  # (16, L)
        np.save(folder / f"{number}.npy", frames)
        metadata = {"relpath": name, "prompt": name, "seconds_total": -(-len(audio) // 8000), "padding_mask": [1] * frames.shape[1]}
        (folder / f"{number}.json").write_text(json.dumps(metadata))
    shards = tmp_path_factory.mktemp("packed")
    pack(folder, str(shards))
    return shards, folder


@proofs.of("pre_encoded", "latent_crop_length", "min_length_sec", "max_length_sec", kinds=SHARDS)
@every_kind
def test_latents_in_shards(latents, kind):
    shards, folder = latents
    held = {json.loads(path.with_suffix(".json").read_text())["relpath"]: np.load(path) for path in folder.glob("*.npy")}

    def read(crop, **options):
        config = {"dataset_type": kind, "datasets": [{"id": "a", "path": str(shards)}], "pre_encoded": True, "latent_crop_length": crop}
        data = create_dataset_from_config({**config, **options}, SIZE, 8000, 1)
        found = [data.exactly(ItemKey(index, epoch, 0))[0] for index in range(len(data)) for epoch in range(3)]
        return [item for item in found if item is not None]

    for crop in (50, 400):
        starts = set()
        for latents_, info in read(crop):
            start, whole = info["latent_crop_start"], held[info["relpath"]]
            assert latents_.shape == (16, crop)
            count = min(crop, whole.shape[1] - start)
            assert np.array_equal(latents_[:, :count].numpy(), whole[:, start : start + count]) and int(info["padding_mask"].sum()) == count
            starts.add(start)
        assert len(starts) > 3
    assert {info["latent_crop_start"] for _, info in read(50, random_crop=False)} == {0}
    seconds = {info["relpath"]: info["seconds_total"] for _, info in read(50)}
    for options, names in (
        ({"min_length_sec": 2}, {name for name, length in seconds.items() if length >= 2}),
        ({"max_length_sec": 1}, {name for name, length in seconds.items() if length <= 1}),
    ):
        assert 0 < len(names) < len(SOUNDS) and {info["relpath"] for _, info in read(50, **options)} == names


@proofs.of("sample", "cached_conditions", kinds=SHARDS)
@every_kind
def test_latents_are_drawn_and_texts_are_cached_embeddings(latents, tmp_path, kind):
    """The upper half of the channels taken for the scale, as a VAE stores it."""
    folder = shutil.copytree(latents[1], tmp_path / "pairs")
    (folder / "card.json").write_text(json.dumps({"store": "mean-scale", "latent_channels": 8}))
    for name in SOUNDS:
        target = folder / condition_path("prompt", name)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file({"embedding": torch.full((3, 4), float(len(name)))}, target)
    pack(folder, str(tmp_path / "packed"))

    def read(*, epoch=0, **options):
        entry = {"id": "a", "path": str(tmp_path / "packed")}
        config = {"dataset_type": kind, "datasets": [entry], "pre_encoded": True, "latent_crop_length": 50, "random_crop": False, **options}
        data = create_dataset_from_config(config, SIZE, 8000, 1)
        return {item[1]["relpath"]: item for index in range(len(data)) if (item := data.exactly(ItemKey(index, epoch, 0))[0]) is not None}

    held = {json.loads(path.with_suffix(".json").read_text())["relpath"]: np.load(path) for path in folder.glob("*.npy")}
    for name, (mean, info) in read(sample=False).items():
        count = int(info["padding_mask"].sum())
        assert mean.shape == (8, 50) and np.array_equal(mean[:, :count].numpy(), held[name][:8, :count])
    first, again, other = read(), read(), read(epoch=1)
    assert set(first) == set(SOUNDS)
    assert all(first[name][0].equal(again[name][0]) and not first[name][0].equal(other[name][0]) for name in SOUNDS)
    for name, (_, info) in read(cached_conditions=["prompt"]).items():
        assert info["prompt"].eq(len(name)).all() and info["prompt"].shape == (3, 4) and info["prompt_text"] == name


# ---- what is bad --------------------------------------------------------------------------------------------------------------------


@proofs.of("broken_shards", kinds=SHARDS)
@every_kind
def test_broken_shards(config_of, tmp_path, kind):
    shutil.copytree(config_of(kind)["datasets"][0]["path"], tmp_path / "shards")
    last = sorted((tmp_path / "shards").glob("*.tar"))[-1]
    last.with_suffix(".idx").unlink()
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 2])
    config = {**config_of(kind), "datasets": [{"id": "a", "path": str(tmp_path / "shards")}]}
    with pytest.raises(DataError, match=r'00002\.tar: cut off in .*"broken_shards": "keep"'):
        loader_of(config)
    kept = names_of(loader_of({**config, "broken_shards": "keep"}))
    assert 10 <= len(kept) < 12 and set(kept) <= set(SOUNDS)


@proofs.of("max_unreadable_share", kinds=SHARDS)
@every_kind
def test_max_unreadable_share(shared, tmp_path, write_tar, kind):
    paths = [path for path in sorted((shared / "data/bad-audio").glob("*/*")) if path.suffix != ".csv"]
    write_tar(tmp_path / "s" / "0.tar", {f"{number}{path.suffix}": path.read_bytes() for number, path in enumerate(paths)})
    config = {"dataset_type": kind, "datasets": [{"id": "a", "path": str(tmp_path / "s")}], "resampled_shards": False, "drop_last": False}
    loader = loader_of({**config, "max_unreadable_share": 1})
    assert len(names_of(loader)) >= 40 and loader.dataset.num_unreadable > 10
    with pytest.raises(DataError, match=r"more than 10% of 40 files cannot be decoded"):
        names_of(loader_of(config))


# ---- buckets ------------------------------------------------------------------------------------------------------------------------


@proofs.of("s3_path", "endpoint_url", "profile", "storage_options", kinds=SHARDS)
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@every_kind
def test_credentials_and_servers(sounds, tmp_path, monkeypatch, kind):
    moto = pytest.importorskip("moto.server")
    s3fs, boto3 = pytest.importorskip("s3fs"), pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "credentials").write_text("[me]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
    for name, value in (
        ("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials")), ("AWS_CONFIG_FILE", str(tmp_path / "none")),
        ("AWS_EC2_METADATA_DISABLED", "true"), ("AWS_DEFAULT_REGION", "us-east-1"), ("HOME", str(tmp_path)),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    try:
        endpoint = "http://{}:{}".format(*running.get_host_and_port())
        keys = {"key": "testing", "secret": "testing"}
        client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="testing", aws_secret_access_key="testing")
        client.create_bucket(Bucket="sounds")
        pack(sounds, "s3://sounds/all", PackOptions(storage_options={"endpoint_url": endpoint, **keys}))

        def names(**entry):
            s3fs.S3FileSystem.clear_instance_cache()
            config = {"dataset_type": kind, "datasets": [{"id": "a", "s3_path": "sounds/all", **entry}]}
            return names_of(loader_of({**config, "resampled_shards": False, "drop_last": False, "silence_threshold_db": None}))

        assert sorted(names(endpoint_url=endpoint, profile="me")) == sorted(SOUNDS)
        assert sorted(names(storage_options={"endpoint_url": endpoint, **keys})) == sorted(SOUNDS)
        with pytest.raises(DataError, match="NoCredentialsError"):
            names(endpoint_url=endpoint)
    finally:
        running.stop()


def test_every_option_of_audio_and_of_shards_is_proved():
    assert proofs.missing() == {}
