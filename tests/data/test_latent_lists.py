"""Which latents lists of paths mean, and how little is read to find out."""

import json
from collections import Counter

import numpy as np
import pytest

from stable_audio_tools.data import latent_lists
from stable_audio_tools.data.files import PathList
from stable_audio_tools.data.latent_lists import choose_latents
from stable_audio_tools.data.latent_store import LatentStore

AUDIO = ["drums/kick.wav", "drums/snare.wav", "rain.wav", "caf\u0065\u0301.wav", "more/rain.wav", "hum.wav"]


@pytest.fixture
def opened(monkeypatch):
    """How often the JSON file of each item is opened."""
    counts = Counter()
    read = latent_lists.metadata_beside

    def counting(path):
        counts[int(path.stem)] += 1
        return read(path)

    monkeypatch.setattr(latent_lists, "metadata_beside", counting)
    return counts


@pytest.fixture(params=["journal", "half a journal", "damaged journal", "no journal"])
def folder(request, tmp_path):
    """Latents of `AUDIO`, called by their numbers."""
    where = tmp_path / "store/0"
    where.mkdir(parents=True)
    for index, name in enumerate(AUDIO):
        np.save(where / f"{index:03}.npy", np.zeros((2, 3)))
        (where / f"{index:03}.json").write_text(json.dumps({"path": f"/audio/{name}", "relpath": name}))
    lines = [json.dumps({"id": f"{index:03}", "relpath": name, "frames": 3}) + "\n" for index, name in enumerate(AUDIO)]
    lines = {"journal": lines, "half a journal": lines[::2], "damaged journal": [*lines, "odd\n"], "no journal": []}[request.param]
    (where / "journal.jsonl").write_text("".join(lines))
    return tmp_path / "store"


def chosen(folder, tmp_path, **lists):
    store = LatentStore(folder)
    made = {"exclude": None, "include": None}
    for name, entries in lists.items():
        (tmp_path / name).write_text("\n".join(entries))
        made[name] = PathList(tmp_path / name)
    choose_latents([store], **made)
    return [int(path.stem) for path in store.paths]


@pytest.mark.parametrize(
    ("entries", "meant"),
    [
        (["kick"], [0]),
        (["rain.wav"], [2, 4]),
        (["/audio/rain.wav"], [2]),
        (["/elsewhere/rain.wav", "001", "0/005.npy"], [1, 5]),
        (["/audio/caf\u00e9.wav", "more/rain"], [3, 4]),
        (["audio/hum.wav", "drums/snare"], [1]),
    ],
)
def test_an_entry_means_latents_or_their_audio_with_or_without_journals(folder, tmp_path, opened, entries, meant):
    assert chosen(folder, tmp_path, include=entries) == meant
    assert chosen(folder, tmp_path, exclude=entries) == sorted({*range(6)} - {*meant})
    assert max(opened.values(), default=0) <= 2, "once in each of the two"


def test_both_lists_open_each_file_once(folder, tmp_path, opened):
    assert chosen(folder, tmp_path, exclude=["/audio/rain.wav", "/audio/nothing"], include=["/audio/hum.wav", "/audio/more/rain.wav"]) == [
        4,
        5,
    ]
    assert set(opened.values()) == {1}


@pytest.mark.parametrize("folder", ["journal"], indirect=True)
def test_with_a_journal_only_what_it_leaves_open_is_opened(folder, tmp_path, opened):
    assert chosen(folder, tmp_path, exclude=["kick", "rain.wav", "nothing", "elsewhere/0.wav"]) == [1, 3, 5]
    assert not opened
    assert chosen(folder, tmp_path, exclude=["/audio/hum.wav", "/b/drums/kick.wav"]) == [0, 1, 2, 3, 4]
    assert opened == {0: 1, 5: 1}, "their folders are not in the journal"


def test_a_file_that_cannot_be_read_is_told_when_it_is_used(folder, tmp_path):
    (folder / "0/004.json").write_text("[]")
    assert chosen(folder, tmp_path, exclude=["/audio/hum.wav"]) == [0, 1, 2, 3, 4]
