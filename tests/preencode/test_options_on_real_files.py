"""Every option of ``pre_encoded``, on latents of real sounds."""

import json
import shutil

import numpy as np
import pytest
import torch

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import create_dataloader_from_config, create_dataset_from_config
from stable_audio_tools.data.latent_store import read_journal
from stable_audio_tools.errors import DataError
from tests.data.conftest import SOUNDS
from tests.data.proofs import Proofs
from tests.data.test_bad_audio import SILENT, UNREADABLE
from tests.data.test_lint import BAD_AUDIO

proofs = Proofs("pre_encoded")
RATE, RATIO, FRAMES = 8000, 16, 1024


@pytest.fixture
def encode_sounds(encode, shared, tmp_path):
    """``encode_sounds(folder="out", **options)``: latents of twelve real one-shots, of 0.1 to 5 s, in crops of 2 s; without padding."""
    source = shared / "data" / "real-oneshots"
    for name in SOUNDS:
        (tmp_path / "sounds" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, tmp_path / "sounds" / name)
    config = {
        "dataset_type": "audio_dir",
        "datasets": [{"id": "a", "path": str(tmp_path / "sounds"), "caption": "a sound"}],
        "random_crop": False,
    }

    def run(folder="out", **options):
        return encode(folder, dataset_config=config, sample_size=FRAMES * RATIO, **{"store": "mean", "pad": False, **options}).folder

    return run


def held(folder):
    """The latents and metadata of every file, by the sound they are of."""
    found = {}
    for path in sorted(folder.glob("[0-9]*/*.npy")):
        metadata = json.loads(path.with_suffix(".json").read_text())
        found[metadata["relpath"]] = (np.load(path), metadata)
    return found


def config_of(*folders, entry=None, **top):
    entries = [{"id": "a", "path": str(folder), **(entry or {})} for folder in folders]
    return {"dataset_type": "pre_encoded", "datasets": entries, "drop_last": False, **top}


def items(*folders, epoch=0, **options):
    data = create_dataset_from_config(config_of(*folders, **options), 1, RATE, 1)
    found = [data.exactly(ItemKey(index, epoch, 0))[0] for index in range(len(data))]
    return {item[1]["relpath"]: item for item in found if item is not None}


@proofs.of("path", "latent_crop_length", "random_crop")
def test_crops(encode_sounds):
    folder = encode_sounds()
    whole = held(folder)
    assert set(whole) == set(SOUNDS)
    for crop, randomly in ((64, False), (64, True), (2000, True)):
        starts = set()
        for epoch in range(4):
            for name, (latents, info) in items(folder, latent_crop_length=crop, random_crop=randomly, epoch=epoch).items():
                start = info["latent_crop_start"]
                starts.add(start)
                expected = whole[name][0][:, start : start + crop]
                assert latents.shape == (4, crop) and np.array_equal(latents[:, : expected.shape[1]].numpy(), expected)
                assert int(info["padding_mask"].sum()) == expected.shape[1] and info["seconds_start"] == start * RATIO // RATE
        assert (len(starts) > 10) == (randomly and crop == 64)
    assert items(folder)[SOUNDS[0]][0].shape == (4, FRAMES), "a whole crop, if nothing is said"


@proofs.of("min_length_sec", "max_length_sec")
def test_lengths(encode_sounds):
    folder = encode_sounds()
    seconds = {name: metadata["seconds_total"] for name, (_, metadata) in held(folder).items()}
    assert set(items(folder, min_length_sec=2)) == {name for name, length in seconds.items() if length >= 2}
    assert set(items(folder, max_length_sec=1)) == {name for name, length in seconds.items() if length <= 1}


@proofs.of("length_buckets", "drop_last")
def test_batches(encode_sounds):
    folder, buckets = encode_sounds(), [256, 512, 1024]
    real = {name: latents.shape[1] for name, (latents, _) in held(folder).items()}
    loader = create_dataloader_from_config(config_of(folder, length_buckets=buckets), 2, 1, RATE, 1, num_workers=0, seed=0)
    seen = {info["relpath"]: latents.shape[-1] for latents, infos in loader for info in infos}
    assert set(seen) == set(SOUNDS) and set(seen.values()) == set(buckets) and all(seen[name] >= real[name] for name in seen)
    for drop_last, counts in ((True, [5, 5]), (False, [5, 5, 2])):
        loader = create_dataloader_from_config(config_of(folder, drop_last=drop_last), 5, 1, RATE, 1, num_workers=0, seed=0)
        assert [len(latents) for latents, _ in loader] == counts


@proofs.of("latent_extension")
def test_extension(encode_sounds):
    folder = encode_sounds(format="safetensors")
    (folder / "card.json").unlink()  # which says it
    for options in ({"latent_extension": "safetensors"}, {"entry": {"latent_extension": "safetensors"}}):
        assert set(items(folder, **options)) == set(SOUNDS)
    with pytest.raises(DataError, match=r'holds no \.npy files, but \.safetensors files; set "latent_extension": "safetensors"$'):
        items(folder)


@proofs.of("sample")
def test_samples_and_means(encode_sounds):
    folder, mean = encode_sounds("pairs", store="mean-scale"), items(encode_sounds("means"))
    for name, (latents, _) in items(folder, sample=False).items():
        torch.testing.assert_close(latents, mean[name][0])
    first, second = (items(folder, epoch=epoch)[SOUNDS[1]][0] for epoch in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


@proofs.of("cached_conditions")
@pytest.mark.filterwarnings("ignore")
def test_cached_conditions(encode_sounds, write_model, tiny_diffusion):
    model = write_model(tiny_diffusion())
    folder = encode_sounds(cache_conditions=["prompt"], **model.options)
    assert {info["prompt"] for _, info in items(folder).values()} == {"a sound"}
    for _, info in items(folder, cached_conditions=["prompt"]).values():
        assert info["prompt"].shape[-1] == 8 and info["prompt_text"] == "a sound"


@proofs.of("exclude_paths_file", "include_paths_file", "filelist_path")
def test_which_items(encode_sounds, tmp_path, caplog):
    """An entry of a list means the latents, or the audio that they are of: a list that was made for the audio serves both."""
    caplog.set_level("INFO")
    folder = encode_sounds()
    files = {json.loads(path.with_suffix(".json").read_text())["relpath"]: path for path in folder.glob("0/*.npy")}
    (tmp_path / "list.txt").write_text(
        f"{files[SOUNDS[0]].relative_to(folder)}\n{files[SOUNDS[1]]}\nkick\n{SOUNDS[4]}\n{tmp_path / 'sounds' / SOUNDS[5]}\nnothing.wav\n"
    )
    meant = {SOUNDS[0], SOUNDS[1], SOUNDS[3], SOUNDS[4], SOUNDS[5]}
    assert set(items(folder, include_paths_file=str(tmp_path / "list.txt"))) == meant
    assert set(items(folder, exclude_paths_file=str(tmp_path / "list.txt"))) == set(SOUNDS) - meant
    assert f"{folder}: left out 5 items that are in {tmp_path}/list.txt" in caplog.text
    assert "1 of 6 entries mean no file of the dataset (nothing.wav)" in caplog.text
    (tmp_path / "other.txt").write_text("nothing.wav\n")
    with pytest.raises(DataError, match=r"no latents in .*out: all are left out by lists"):
        items(folder, include_paths_file=str(tmp_path / "other.txt"))
    (tmp_path / "files.txt").write_text(f"{files[SOUNDS[2]].relative_to(folder)}\n")
    assert set(items(folder, entry={"filelist_path": str(tmp_path / "files.txt")})) == {SOUNDS[2]}


@proofs.of("custom_metadata_module")
def test_custom_metadata_module(encode_sounds, tmp_path):
    (tmp_path / "md.py").write_text(
        "def get_custom_metadata(info, latents):\n"
        "    if info['relpath'].endswith('kick.ogg'): return {'__reject__': True}\n"
        "    if info['relpath'].endswith('jump.ogg'): return {'__replace__': latents * 0}\n"
        "    return {'prompt': info['prompt'] + '!', 'level': float(latents.abs().mean())}\n"
    )
    found = items(encode_sounds(), entry={"custom_metadata_module": str(tmp_path / "md.py")})
    assert set(SOUNDS) - set(found) == {"drum-machines/MFB-512/kick.ogg"}
    assert found["kenney/3D-Platformer/jump.ogg"][0].eq(0).all()
    assert found[SOUNDS[0]][1]["prompt"] == "a sound!" and found[SOUNDS[0]][1]["level"] > 0


@proofs.of("max_unreadable_share")
def test_max_unreadable_share(encode_sounds):
    folder = encode_sounds()
    broken = sorted(folder.glob("0/*.npy"))[:5]  # of twelve
    for path in broken:
        path.write_bytes(b"no latents")
    with pytest.raises(DataError, match=r"more than 25% of \d+ files cannot be"):
        items(folder)
    assert len(items(folder, max_unreadable_share=0.5)) == len(SOUNDS) - len(broken)


@proofs.of("weight")
def test_weight(encode_sounds):
    config = config_of(encode_sounds("a"), encode_sounds("b"))
    config["datasets"][1]["weight"] = 12.0
    loader = create_dataloader_from_config(config, 1, 1, RATE, 1, num_workers=0, seed=0)
    assert np.mean(["/b/" in info["latent_filename"] for _, infos in loader for info in infos]) > 0.75


def test_every_option_is_proved():
    assert proofs.missing() == {}


def test_bad_audio_is_skipped_for_the_reason_that_lint_gives(encode, shared):
    bad = shared / "data" / "bad-audio"
    config = {"dataset_type": "audio_dir", "datasets": [{"id": "a", "path": str(bad)}], "random_crop": False, "max_unreadable_share": 1}
    result = encode(dataset_config=config, sample_size=FRAMES * RATIO, batch_size=4)
    skipped = {entry["path"]: entry["skipped"] for entry in read_journal(result.folder / "0" / "journal.jsonl") if "skipped" in entry}
    assert {path.removeprefix(f"{bad}/") for path in skipped} == UNREADABLE | SILENT
    assert {path.removeprefix(f"{bad}/") for path, why in skipped.items() if "silent" in why} == SILENT
    written = held(result.folder)
    assert set(written) == set(BAD_AUDIO) - UNREADABLE - SILENT and all(np.isfinite(latents).all() for latents, _ in written.values())
