"""Folders of pre-encoded items: what a batch holds, crops and what the metadata says of them, and every message."""

import json
import random
from collections import Counter

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.dataset import LocalDatasetConfig, PreEncodedDataset, create_dataloader_from_config, create_dataset_from_config
from stable_audio_tools.data.latent_dataset import LatentOptions
from stable_audio_tools.data.latent_store import LatentStore
from stable_audio_tools.data.store_facts import StoreFacts, condition_path
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.models.bottlenecks.vae import vae_deviation

RATIO, RATE, WHOLE = 800, 8000, 20  # ten frames per second; a whole crop is 20 frames, 2 s


def ramp(index, frames, channels=3):
    """Frame n of item i is 100 i + n."""
    return np.tile(100.0 * index + np.arange(frames), (channels, 1)).astype(np.float32)


@pytest.fixture
def write_store(tmp_path):
    """``write_store(lengths, name="store", **card)``: item i begins at sample 400 of a clip of 10 s, padded if ``pad`` says so."""

    def write(lengths=(20, 7, 12), name="store", *, pad=False, extension="npy", channels=3, card=None, extra=None):
        folder = tmp_path / name
        (folder / "0").mkdir(parents=True)
        for index, frames in enumerate(lengths):
            latents = ramp(index, WHOLE if pad else frames, channels)
            path = folder / "0" / f"{index:013d}.{extension}"
            if extension == "npy":
                np.save(path, latents)
            else:
                save_file({"latents": torch.from_numpy(latents)}, path)
            metadata = {
                "path": f"/audio/{index}.wav", "relpath": f"{index}.wav", "prompt": f"item {index}", "sample_rate": RATE,
                "seconds_start": 3, "seconds_total": 10 + index, "timestamps": [0.39, 0.59], "downsampling_ratio": RATIO,
                "padding_mask": [int(frame < frames) for frame in range(WHOLE if pad else frames)], **(extra or {}),
            }  # fmt: skip
            path.with_suffix(".json").write_text(json.dumps(metadata))
        base = {"sample_size": WHOLE * RATIO, "sample_rate": RATE, "format": extension, "store": "sample", "latent_length": WHOLE}
        if card is not False:
            (folder / "card.json").write_text(json.dumps({**base, **(card or {})}))
        return folder

    return write


def config(*folders, entry=None, **top):
    return {"dataset_type": "pre_encoded", "datasets": [{"id": "a", "path": str(folder), **(entry or {})} for folder in folders], **top}


def dataset(*folders, **options):
    return create_dataset_from_config(config(*folders, **options), 1, RATE, 1)


def test_a_batch_is_latents_and_metadata(write_store):
    loader = create_dataloader_from_config(config(write_store()), 3, 1, RATE, 1, num_workers=0, shuffle=False)
    latents, metadata = next(iter(loader))
    assert latents.shape == (3, 3, WHOLE) and latents.dtype == torch.float32
    assert [item["prompt"] for item in metadata] == ["item 0", "item 1", "item 2"]
    item = metadata[1]
    assert item["latent_filename"].endswith("0000000000001.npy") and item["path"] == "/audio/1.wav"
    assert item["padding_mask"].tolist() == [1] * 7 + [0] * 13 and item["audio"].shape == (3, WHOLE)
    assert (item["seconds_start"], item["seconds_total"], item["timestamps"]) == (3, 11, [0.39, 0.59])
    assert "latent_crop_length" not in item


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_deliver_the_same(write_store, workers):
    folder = write_store([20] * 8)
    options = config(folder, random_crop=True, latent_crop_length=5)
    loaders = [create_dataloader_from_config(options, 2, 1, RATE, 1, num_workers=number, seed=3) for number in (0, workers)]
    for one, two in zip(*loaders, strict=True):
        assert one[0].equal(two[0]) and [item["path"] for item in one[1]] == [item["path"] for item in two[1]]


@pytest.mark.parametrize("pad", [False, True])
@pytest.mark.parametrize("crop", [5, 10, 20, 30])
def test_several_lengths_from_one_store(write_store, crop, pad):
    """Also longer than what is stored; padded stores and others alike."""
    data = dataset(write_store(pad=pad), latent_crop_length=crop)
    for index, real in enumerate((20, 7, 12)):
        latents, metadata = data[index]
        assert latents.shape == (3, crop)
        kept = min(real, crop)
        assert metadata["padding_mask"].tolist() == [1] * kept + [0] * (crop - kept)
        assert latents[0, :kept].tolist() == [100 * index + frame for frame in range(kept)]
        assert (metadata["latent_crop_length"], metadata["latent_crop_start"]) == (crop, 0)


def test_random_crops_reach_every_place_and_never_padding(write_store):
    data = dataset(write_store([12], pad=True), latent_crop_length=5, random_crop=True)
    starts = []
    for epoch in range(200):
        latents, metadata = data[ItemKey(0, epoch, 0)]
        start = metadata["latent_crop_start"]
        assert latents[1].tolist() == list(range(start, start + 5)) and metadata["padding_mask"].all()
        starts.append(start)
    assert set(starts) == set(range(8)), "up to and with the last frame that holds audio"
    again = [data[ItemKey(0, epoch, 0)][1]["latent_crop_start"] for epoch in range(200)]
    assert again == starts


def test_a_crop_of_latents_says_where_it_is_as_a_crop_of_audio_does(write_store):
    """The stored crop begins at 3.9 s of 10 s; a frame is 0.1 s."""
    data = dataset(write_store([20]), latent_crop_length=5, random_crop=True)
    for epoch in range(30):
        _, metadata = data[ItemKey(0, epoch, 0)]
        begin = 3.9 + 0.1 * metadata["latent_crop_start"]
        assert metadata["seconds_start"] == int(begin + 1e-6) and metadata["seconds_total"] == 10
        assert metadata["timestamps"] == pytest.approx([begin / 10, (begin + 0.5) / 10])


def test_what_other_programs_wrote(write_store):
    """No card and no ratio in the metadata; details.json has the length of a crop. Integers in masks and batches of one are theirs."""
    folder = write_store(pad=True, card=False, extra={"downsampling_ratio": None})
    (folder / "details.json").write_text(json.dumps({"sample_size": WHOLE * RATIO}))
    np.save(folder / "0" / "0000000000000.npy", ramp(0, WHOLE)[None])
    latents, metadata = dataset(folder)[0]
    assert latents.shape == (3, WHOLE) and metadata["padding_mask"].shape == (WHOLE,)
    assert dataset(folder, latent_crop_length=25)[0][0].shape == (3, 25)


def test_silence_continues_short_items_and_is_no_item(write_store):
    folder = write_store([7])
    np.save(folder / "silence.npy", -1.0 - np.tile(np.arange(WHOLE), (1, 3, 1)).astype(np.float32))
    data = dataset(folder)
    assert len(data) == 1
    assert data[0][0][0].tolist() == [*range(7), *(-1.0 - frame for frame in range(7, 20))], "from where the item ends"
    assert dataset(folder, latent_crop_length=30)[0][0][2, 7:].tolist() == [-1.0 - frame % WHOLE for frame in range(23)]


def test_zeros_where_there_is_no_silence(write_store):
    assert dataset(write_store([7]))[0][0][:, 7:].eq(0).all()


@pytest.mark.parametrize("low_high_count", [(11, None, 2), (None, 11, 2), (11, 11, 1)])
def test_lengths_in_seconds(write_store, low_high_count):
    low, high, count = low_high_count
    options = {key: value for key, value in (("min_length_sec", low), ("max_length_sec", high)) if value is not None}
    assert len(dataset(write_store(), **options)) == count


def test_mean_and_scale_are_drawn_anew_each_pass(write_store):
    folder = write_store([20], channels=6, card={"store": "mean-scale"})
    scale = np.full((3, WHOLE), 0.5, np.float32)
    np.save(folder / "0" / "0000000000000.npy", np.concatenate([ramp(0, WHOLE), scale]))
    drawn = torch.stack([dataset(folder)[ItemKey(0, epoch, 1)][0] for epoch in range(300)])
    assert drawn.shape == (300, 3, WHOLE)
    torch.testing.assert_close(drawn.mean(0), torch.from_numpy(ramp(0, WHOLE)), atol=0.3, rtol=0)
    assert drawn.std(0).mean().item() == pytest.approx(vae_deviation(torch.tensor(0.5)).item(), rel=0.02)
    assert dataset(folder)[ItemKey(0, 4, 1)][0].equal(drawn[4]), "by item, pass and seed alone"
    assert dataset(folder, sample=False)[0][0].equal(torch.from_numpy(ramp(0, WHOLE)))


def test_tokens_stay_whole_numbers(write_store):
    folder = write_store([20])
    np.save(folder / "0" / "0000000000000.npy", np.arange(60, dtype=np.int32).reshape(3, 20))
    assert dataset(folder, latent_crop_length=4)[0][0].tolist() == [[0, 1, 2, 3], [20, 21, 22, 23], [40, 41, 42, 43]]


def test_half_precision_on_disk_is_float32_in_memory(write_store):
    folder = write_store([20])
    np.save(folder / "0" / "0000000000000.npy", ramp(0, WHOLE).astype(np.float16))
    assert dataset(folder)[0][0].dtype == torch.float32


def test_safetensors_are_found_by_the_card_or_by_name(write_store):
    assert len(dataset(write_store(extension="safetensors"))) == 3
    other = write_store(name="b", extension="safetensors", card=False)
    assert len(dataset(other, latent_extension="safetensors")) == len(dataset(other, entry={"latent_extension": ".safetensors"})) == 3
    with pytest.raises(DataError, match=r'b: holds no \.npy files, but \.safetensors files; set "latent_extension": "safetensors"$'):
        dataset(other)


def test_several_stores(write_store):
    data = dataset(write_store(), write_store([5], "b"))
    assert len(data) == 4 and data[3][1]["padding_mask"].sum() == 5


def test_weights_of_folders(write_store):
    few, many = str(write_store([5] * 3)), str(write_store([5] * 30, "b"))
    folders = [{"path": few, "weight": 90.0}, {"path": many}]
    loader = create_dataloader_from_config({**config(), "datasets": folders}, 1, 1, RATE, 1, num_workers=0, seed=0)
    drawn = [metadata[0]["latent_filename"] for _, metadata in loader]
    assert len(drawn) == 33 and sum(name.startswith(few + "/") for name in drawn) > 24  # nine of ten
    with pytest.raises(DataError, match="length_buckets and weights of folders do not go together; leave out one of them"):
        create_dataset_from_config({**config(length_buckets=[10]), "datasets": folders}, 1, RATE, 1)


def test_a_list_of_files(write_store, tmp_path):
    folder = write_store()
    (tmp_path / "list.txt").write_text("# chosen\n0\\0000000000002.npy\n\n./0/0000000000000.npy\n")
    assert len(dataset(folder, entry={"filelist_path": str(tmp_path / "list.txt")})) == 2
    (folder / "filelist.txt").write_text("0/0000000000001.npy\n")
    assert dataset(folder)[0][1]["prompt"] == "item 1"
    (folder / "filelist.txt").write_text("0/0000000000001.npy\n0/0000000000000.npy\n./0/0000000000001.npy\n")
    assert [item[1]["prompt"] for item in map(dataset(folder).__getitem__, range(2))] == ["item 1", "item 0"]
    assert len(dataset(folder)) == 2, "each once"
    (folder / "filelist.txt").write_text(f"../{folder.name}/0/0000000000001.npy\n")
    with pytest.raises(DataError, match=r"filelist\.txt: '\.\..*npy' is not below the dataset's folder; paths in it are rel"):
        dataset(folder)
    for text, message in (("odd.npy", r"names 1 of 1 files that do not exist \(.*odd\.npy\); its lines are paths"), ("", "names no files")):
        (folder / "filelist.txt").write_text(text)
        with pytest.raises(DataError, match=rf"filelist\.txt: {message}"):
            dataset(folder)


MODULE = """
def get_custom_metadata(info, latents):
    if info["prompt"] == "item 1":
        return {"__reject__": True}
    if info["prompt"] == "item 2":
        return {"__replace__": latents * 0, "prompt": "replaced"}
    return {"seen": tuple(latents.shape)}
"""


def test_custom_metadata(write_store, tmp_path):
    (tmp_path / "md.py").write_text(MODULE)
    data = dataset(write_store(), entry={"custom_metadata_module": str(tmp_path / "md.py")})
    assert data[0][1]["seen"] == (3, WHOLE)
    latents, metadata = data[2]
    assert latents.eq(0).all() and metadata["prompt"] == "replaced" and metadata["audio"] is latents
    assert data[ItemKey(1, 0, 0)][1]["prompt"] in ("item 0", "replaced"), "another one takes its place"
    assert data.exactly(1)[0] is None and data.exactly(1)[1].endswith("rejected by the metadata module")
    assert data.summary().startswith("0 of 3 files unreadable; 1 with rejected crops, which were replaced (") and data.num_skipped == 1
    (tmp_path / "md.py").write_text("def get_custom_metadata(info, latents):\n    return {'__replace__': 3}")
    with pytest.raises(DataError, match=r"__replace__ is a tensor of latents \(channels, frames\), got int"):
        dataset(write_store(name="b"), entry={"custom_metadata_module": str(tmp_path / "md.py")})[0]


def test_unreadable_files_are_replaced_and_named_once(write_store, caplog):
    folder = write_store()
    (folder / "0" / "0000000000000.npy").write_bytes(b"odd")
    (folder / "0" / "0000000000001.json").unlink()
    data = dataset(folder, max_unreadable_share=1)
    for _ in range(2):
        assert all(data[ItemKey(index, 0, 0)][1]["prompt"] == "item 2" for index in range(3))
    assert data.num_unreadable == 2
    assert (
        caplog.text.count("000.npy: cannot be read as latents: no whole .npy file of numbers") == 1
        and caplog.text.count("each file of latents has a JSON file") == 1
    )
    (folder / "0" / "0000000000002.npy").unlink()
    with pytest.raises(DataError, match=r"^no usable latents found in 3 files: 3 of 3 files unreadable \("):
        data[0]


def test_a_run_stops_if_too_many_files_cannot_be_read(write_store):
    folder = write_store([20] * 8)
    for index in (1, 4, 6):
        (folder / "0" / f"{index:013d}.npy").write_bytes(b"odd")
    patient, strict = dataset(folder, max_unreadable_share=0.4), dataset(folder)
    assert len([patient[index] for index in range(8)]) == 8 and patient.num_unreadable == 3
    message = r"3 of 8 files unreadable \(.*\); last: .*; more than 25% of 8 files cannot be decoded: mend or remove them, or allow more"
    with pytest.raises(DataError, match=message):
        [strict[index] for index in range(8)]


CHOSEN_BEFORE = [{"min_length_sec": 1}, {"length_buckets": [10, 30]}, {"max_length_sec": 99, "length_buckets": [10, 30]}]


@pytest.mark.parametrize("options", CHOSEN_BEFORE)
def test_a_file_that_cannot_be_read_does_not_keep_a_run_from_starting(write_store, options, caplog):
    """Lengths are looked up before the first item is used, in all JSON files if there is no journal."""
    folder = write_store([20, 7, 12, 9, 5])
    beside = folder / "0" / "0000000000001.json"
    beside.write_text(beside.read_text()[:30])
    data = dataset(folder, **options)
    items = [data[ItemKey(index, 0, 0, length=30)][1]["relpath"] for index in range(5)]
    assert len(items) == 5 and "1.wav" not in items and data.num_unreadable == 1
    assert caplog.text.count("skipped: ") == caplog.text.count(f"{beside}: not valid JSON") == 1


def test_too_many_that_cannot_be_read_stop_a_run_before_it_starts(write_store):
    folder = write_store([20, 7, 12, 9])
    for index in (0, 2):
        (folder / "0" / f"{index:013d}.json").write_text("[]")
    message = r"2 of 4 files unreadable \(.*\); last: .*2\.json: holds list, not an object; more than 25% of 4 files cannot be decoded"
    with pytest.raises(DataError, match=message):
        dataset(folder, length_buckets=[30])
    assert dataset(folder, length_buckets=[30], max_unreadable_share=0.5).bucket_lengths == [30] * 4


def test_no_clip_of_that_length_among_those_that_can_be_read(write_store):
    folder = write_store()
    (folder / "0" / "0000000000001.json").write_text("[]")
    with pytest.raises(DataError, match=r"^none of 3 items has a seconds_total of 50 to inf; .*; 1 cannot be read, first .*holds list"):
        dataset(folder, min_length_sec=50)


def test_the_class_takes_what_scripts_give(write_store):
    random.seed(0)
    data = PreEncodedDataset([LocalDatasetConfig("a", str(write_store([20])))], latent_crop_length=4, random_crop=True)
    assert len({data[0][1]["latent_crop_start"] for _ in range(50)}) > 5
    with pytest.raises(DataError, match="datasets: the list is empty; give at least one folder of pre-encoded items"):
        PreEncodedDataset([])


def test_the_class_takes_nothing_twice(write_store):
    folder = write_store()
    configs, stores = [LocalDatasetConfig("a", str(folder))], [LatentStore(folder)]
    options = LatentOptions(random_crop=True)
    for extra in ({"min_length_sec": 5}, {"max_length_sec": 5}, {"latent_crop_length": 4}, {"random_crop": True}):
        with pytest.raises(DataError, match=rf"^{next(iter(extra))}: given beside options, which have it too; write it there only$"):
            PreEncodedDataset(configs, options=options, **extra)
    with pytest.raises(DataError, match=r"^latent_extension: given beside stores, which are open; "):
        PreEncodedDataset(configs, stores=stores, latent_extension="npy")
    for number in (0, 2):
        with pytest.raises(DataError, match=f"^stores: 1 for {number} configs; give one of each$"):
            PreEncodedDataset(configs * number, stores=stores)
    assert len(PreEncodedDataset(configs, stores=stores, options=options)) == 3


def test_cached_conditions(write_store):
    folder = write_store()
    path = folder / condition_path("prompt", "item 0")
    path.parent.mkdir(parents=True)
    save_file({"embedding": torch.ones(4, 8)}, path)
    data = dataset(folder, cached_conditions=["prompt"])
    _, metadata = data[0]
    assert metadata["prompt"].shape == (4, 8) and metadata["prompt_text"] == "item 0"
    with pytest.raises(DataError, match=r"prompt 'item 1' was not cached; run sat pre-encode with --cache-conditions prompt$"):
        data[1]
    with pytest.raises(DataError, match=r"cached_conditions: 'seconds_start' is no text: 3$"):
        dataset(folder, cached_conditions=["seconds_start"])[0]


def test_texts_that_come_again_are_read_once():
    """From afar each of them is a request."""
    reads = Counter()

    def read(name):
        reads[name] += 1
        return save({"embedding": torch.full((4, 8), float(len(reads)))}) if name.startswith("conditions") else None

    store = StoreFacts("somewhere", read)
    first = store.condition("prompt", "rain")
    expected = first.clone()
    first.zero_()  # nobody else notices
    assert all(store.condition("prompt", "rain").equal(expected) for _ in range(3))
    assert not store.condition("prompt", "wind").equal(expected) and not store.condition("genre", "rain").equal(expected)
    assert [reads[name] for name in reads if name.startswith("conditions")] == [1, 1, 1]


# ---- buckets ------------------------------------------------------------------------------------------------------------------------


def test_batches_of_similar_length(write_store):
    lengths = [3, 20, 5, 8, 19, 4, 7, 6, 12, 2]
    folder = write_store(lengths)
    loader = create_dataloader_from_config(
        config(folder, length_buckets=[10, 5, 15], drop_last=False), 2, 1, RATE, 1, num_workers=0, seed=1
    )
    seen = []
    for latents, metadata in loader:
        shape = latents.shape[-1]
        assert shape in (5, 10, 15)
        for item in metadata:
            index = int(item["relpath"].split(".")[0])
            seen.append(index)
            assert item["padding_mask"].sum() == min(lengths[index], 15) and item["padding_mask"].shape == (shape,)
    assert sorted(seen) == list(range(10)), "every item once"


def test_padded_stores_have_buckets_by_real_length(write_store):
    data = dataset(write_store(pad=True), length_buckets=[8, 16])
    assert data.bucket_lengths == [16, 8, 16]
    assert data[ItemKey(1, 0, 0, length=8)][0].shape == (3, 8)


# ---- what cannot be ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"latent_crop_length": 0}, "latent_crop_length: input should be greater than 0, got 0"),
        ({"latent_crop_len": 4}, "latent_crop_len: unknown key; did you mean 'latent_crop_length'"),
        ({"entry": {"latent_crop_length": 4}}, r"datasets\[0\]\.latent_crop_length: unknown key"),
    ],
)
def test_mistakes_in_the_config(write_store, options, message):
    with pytest.raises(ConfigError, match=message):
        dataset(write_store(), **options)


def test_two_ways_to_say_how_long_items_are(write_store):
    with pytest.raises(DataError, match=r"^latent_crop_length and length_buckets both say how long items are; give one of them$"):
        dataset(write_store(), latent_crop_length=4, length_buckets=[4])


def test_folders_that_hold_no_latents(tmp_path, write_noises):
    for folder, message in (
        (tmp_path / "none", "none: no such folder; 'path' is a folder of pre-encoded items$"),
        (tmp_path / "empty", r"empty: holds no \.npy files; did sat pre-encode write there\?$"),
        (write_noises(tmp_path / "audio", 1), 'audio: holds audio and no latents; use "dataset_type": "audio_dir", or encode it with sat'),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError, match=message):
            dataset(folder)
    with pytest.raises(DataError, match="latent_extension is 'npy' or 'safetensors', got 'pt'"):
        LatentStore(tmp_path / "empty", "pt")
    (tmp_path / "empty" / "card.json").write_text('{"format": "wds"}')
    with pytest.raises(DataError, match=r'holds WebDataset shards; use "dataset_type": "wds" with "pre_encoded": true$'):
        dataset(tmp_path / "empty")


def test_stores_that_do_not_go_together(write_store):
    with pytest.raises(
        DataError, match=r"the folders hold latents of different widths: .*a 3, .*b 5; they were encoded by different models$"
    ):
        dataset(write_store(name="a"), write_store(name="b", channels=5))
    one, two = (write_store(name=name, card={"model": {"hash": name}}) for name in ("c", "d"))
    with pytest.raises(DataError, match=r"the folders were encoded by different models, by their card\.json: .*c, .*d$"):
        dataset(one, two)


def test_another_sample_rate(write_store):
    with pytest.raises(DataError, match=r"store: was encoded at 16000 Hz, but the model works at 8000 Hz$"):
        dataset(write_store(card={"sample_rate": 16000}))


def test_folders_of_which_nothing_is_used_or_can_be_read_have_no_width(write_store, tmp_path):
    one, two = write_store(name="a", card=False), write_store(name="b", card={"model": {"hash": "other"}, "sample_rate": 1}, channels=5)
    listed = tmp_path / "listed.txt"
    listed.write_text("\n".join(str(path) for path in two.rglob("*.npy")))
    assert len(dataset(one, two, exclude_paths_file=str(listed))) == 3
    bad = write_store([20], name="c", card=False)
    (bad / "0" / "0000000000000.npy").write_bytes(b"odd")
    data = dataset(one, bad)
    assert [data[ItemKey(index, 0, 0)][0].shape[0] for index in range(4)] == [3] * 4 and data.num_unreadable == 1


def test_no_clip_of_that_length(write_store):
    with pytest.raises(DataError, match=r"^none of 3 items has a seconds_total of 50 to inf; see min_ and max_length_sec$"):
        dataset(write_store(), min_length_sec=50)


def test_masks_that_do_not_fit(write_store):
    folder = write_store([20])
    np.save(folder / "0" / "0000000000000.npy", ramp(0, 19))
    with pytest.raises(DataError, match=r"0\.npy: 19 frames, but a padding_mask of 20; were its files mixed up\?$"):
        dataset(folder)[0]


@pytest.mark.parametrize("mask", [[1] * 19, ["one", "two"], [[1, 2], [3]], "all", {"a": 1}])
@pytest.mark.parametrize("options", [{}, {"length_buckets": [30]}])
def test_a_mask_that_does_not_fit_is_a_bad_file_like_any_other(write_store, mask, options, caplog):
    folder = write_store([20, 12, 9, 5])
    beside = folder / "0" / "0000000000002.json"
    beside.write_text(json.dumps({**json.loads(beside.read_text()), "padding_mask": mask}))
    data = dataset(folder, **options)
    assert [data[ItemKey(index, 0, 0, length=30)][1]["relpath"] for index in (0, 1, 3)] == ["0.wav", "1.wav", "3.wav"]
    assert data[ItemKey(2, 0, 0, length=30)][1]["relpath"] != "2.wav" and data.num_unreadable == 1
    assert caplog.text.count("skipped: ") == 1


def test_latents_of_another_shape(write_store):
    folder = write_store([20])
    np.save(folder / "0" / "0000000000000.npy", np.zeros((2, 3, 4, 5)))
    with pytest.raises(DataError, match=r"0\.npy: latents are \(channels, frames\), got shape \(2, 3, 4, 5\)$"):
        dataset(folder)[0]


def test_different_lengths_in_one_batch_name_the_keys_that_help(write_store):
    folder = write_store([5, 9], card=False, extra={"downsampling_ratio": None})
    loader = create_dataloader_from_config(config(folder), 2, 1, RATE, 1, num_workers=0, shuffle=False)
    message = r"items of one batch have different shapes: \(3, 5\), \(3, 9\); if these are pre-encoded, set latent_crop_length or length_"
    with pytest.raises(DataError, match=message):
        next(iter(loader))
