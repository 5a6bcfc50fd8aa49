"""Batches of one length: every item once, split over processes, resumable."""

import pytest
import torch

from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.data.buckets import BucketSampler
from stable_audio_tools.data.loader import make_loader

LENGTHS = [16, 64, 16, 32, 64, 32, 16, 16, 32, 64, 16, 32, 16]


class Items(ItemDataset):
    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, key):
        assert isinstance(key, ItemKey)
        assert key.length >= LENGTHS[key.index]
        return torch.zeros(1, key.length), {"index": key.index}

    def sampler(self, *, num_workers, **options):
        return BucketSampler(LENGTHS, **options)


def loader(batch_size=2, *, drop_last=False, shuffle=True, seed=0):
    return make_loader(Items(), batch_size=batch_size, num_workers=0, shuffle=shuffle, drop_last=drop_last, seed=seed)


def taken(batches):
    return [[item["index"] for item in metadata] for _, metadata in batches]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5, 20])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_item_once_per_pass(batch_size, shuffle):
    data = loader(batch_size, shuffle=shuffle)
    for _ in range(3):
        batches = list(data)
        assert len(batches) == len(data)
        assert sorted(index for batch in taken(batches) for index in batch) == list(range(len(LENGTHS)))


def test_only_what_fills_no_batch_is_padded_further():
    batches = list(loader(2))
    promoted = sum(audio.shape[-1] > LENGTHS[item["index"]] for audio, metadata in batches for item in metadata)
    assert promoted <= 2, "at most one batch less one per bucket but the longest"
    assert [audio.shape[0] for audio, _ in batches] == [2] * 6 + [1]


def test_passes_are_shuffled_batches_too():
    data = loader(2)
    orders = [taken(data) for _ in range(4)]
    assert len({str(order) for order in orders}) == 4
    lengths = [[audio.shape[-1] for audio, _ in data] for _ in range(4)]
    assert any(order != sorted(order) for order in lengths)
    assert [taken(loader(2)) for _ in range(2)] == [orders[0]] * 2


def test_the_last_batch_is_dropped_if_asked():
    assert [audio.shape[0] for audio, _ in loader(2, drop_last=True)] == [2] * 6


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_pass_and_their_batches_have_one_length(world, drop_last, monkeypatch):
    keys = []
    for rank in range(world):
        sampler = BucketSampler(LENGTHS, batch_size=2, seed=0, drop_last=drop_last)
        monkeypatch.setattr(sampler, "_split", lambda rank=rank: (world, rank))
        keys.append(list(sampler))
        assert len(keys[-1]) == len(sampler)
    steps = list(zip(*[[found[start : start + 2] for start in range(0, len(found), 2)] for found in keys], strict=True))
    for step in steps:
        assert len({key.length for batch in step for key in batch}) == 1
    indices = [key.index for found in keys for key in found]
    if drop_last:
        assert len(indices) == len(set(indices)) == len(LENGTHS) // world * world
    else:
        assert set(indices) == set(range(len(LENGTHS)))


@pytest.mark.parametrize("done", [1, 3, 7])
def test_a_resumed_pass_goes_on_with_the_next_batch(done):
    whole = loader(2)
    expected = [*taken(whole), *taken(whole)]
    first = loader(2)
    batches = iter(first)
    for _ in range(done):
        next(batches)
    second = loader(2, seed=9)
    second.load_state_dict(first.state_dict())
    assert taken(second) == (expected[done:7] or expected[7:])


def test_another_batch_size_begins_the_pass_anew(caplog):
    first = loader(2)
    next(iter(first))
    second = loader(3)
    second.load_state_dict(first.state_dict())
    assert "resumed with 3 items per batch instead of 2, on which the order of length buckets depends: this pass begins anew" in caplog.text
    assert second.resumed_at == 0, "or a trainer counts batches that come again as done"
    assert sorted(index for batch in taken(second) for index in batch) == list(range(len(LENGTHS)))
