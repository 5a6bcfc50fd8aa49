"""Real sounds, as folders and as shards."""

import csv
import shutil

import pytest

from stable_audio_tools.data.shards.pack import PackOptions, pack

SHARDS = ("wds", "s3")
SOUNDS = (
    "sonic-pi/tabla_ke1.flac", "sonic-pi/ambi_choir.flac", "uzu-drumkit/11_rim_switch_angel.wav", "drum-machines/MFB-512/kick.ogg",
    "kenney/3D-Platformer/jump.ogg", "esc-10/006 - Person sneeze/1-59324-A.ogg", "dirt-num/01.wav", "freedoom/dstink.wav",
    "body-percussion/head_vl1_rr1.flac", "openrct2-sfx/news.flac", "minetest-game/default_tool_breaks.1.ogg", "wav-piano-sound/c2.wav",
)  # fmt: skip


@pytest.fixture(scope="session")
def sounds(shared, tmp_path_factory):
    """Twelve one-shots: three formats, mono and stereo, several rates, 0.1 to 5 s; with their captions."""
    source, folder = shared / "data/real-oneshots", tmp_path_factory.mktemp("sounds")
    for name in SOUNDS:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, folder / name)
    with open(source / "captions.csv", newline="") as file:
        rows = [row for row in csv.reader(file) if row[0] == "path" or row[0] in SOUNDS]
    with open(folder / "captions.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder


@pytest.fixture(scope="session")
def config_of(sounds, tmp_path_factory):
    """``config_of(kind, folder=sounds, entry={}, **top)``: of a folder, or of the shards that it is packed into."""
    packed = {}

    def config(kind, folder=sounds, *, entry=None, **top):
        if kind in SHARDS:
            if folder not in packed:
                packed[folder] = tmp_path_factory.mktemp("shards")
                pack(folder, str(packed[folder]), PackOptions(shard_samples=5))
            folder, top = packed[folder], {"resampled_shards": False, **top}
        top = {"min_crop_sec": 0, **top} if kind == "audio_crops" else {"random_crop": False, **top}
        options = {"augment_phase": False, "silence_threshold_db": None, "drop_last": False, **top}
        return {"dataset_type": kind, "datasets": [{"id": "sounds", "path": str(folder), **(entry or {})}], **options}

    return config
