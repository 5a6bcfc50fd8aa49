import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.loader import ResumableSampler, collation_fn, make_loader


class Keys(Dataset):
    """Items that say which key they were asked for."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, key: ItemKey):
        return torch.tensor([key.index, key.epoch, key.seed]), {"index": key.index, "pid": os.getpid()}


def loader_of(count=23, batch_size=3, workers=0, **options):
    settings = {"shuffle": True, "drop_last": True, "seed": 5, **options}
    return make_loader(Keys(count), batch_size=batch_size, num_workers=workers, **settings)


def indices(batches):
    return [tuple(batch[0][:, 0].tolist()) for batch in batches]


def one_pass(loader):
    return indices(loader)


# ---- passes ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last", [True, False])
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_pass_delivers_every_item_once(drop_last, shuffle):
    loader = loader_of(drop_last=drop_last, shuffle=shuffle)
    batches = one_pass(loader)
    assert len(batches) == len(loader) == (7 if drop_last else 8)
    delivered = [index for batch in batches for index in batch]
    assert len(delivered) == (21 if drop_last else 23) and len(set(delivered)) == len(delivered)
    assert (delivered == sorted(delivered)) is not shuffle


def test_each_pass_of_a_plain_loop_is_another_epoch():
    """Nobody calls set_epoch in a script's ``for batch in loader``; order and crops must differ nevertheless."""
    loader = loader_of()
    passes = [one_pass(loader) for _ in range(4)]
    assert len({str(batches) for batches in passes}) == 4
    assert {int(epoch) for batch in loader for epoch in batch[0][:, 1]} == {4}


def test_a_pass_that_was_broken_off_is_not_repeated():
    loader = loader_of()
    assert len({str(next(iter(loader))[0]) for _ in range(5)}) == 5


def test_epochs_that_are_set_are_kept():
    loader, other = loader_of(), loader_of()
    loader.sampler.set_epoch(3)
    first = one_pass(loader)
    other.sampler.set_epoch(3)
    assert one_pass(other) == first
    loader.sampler.set_epoch(3)
    assert one_pass(loader) == first
    loader.sampler.set_epoch(4)
    assert one_pass(loader) != first


def test_without_shuffling_every_pass_is_the_same():
    """Validation losses of different epochs are compared, so the crops must be the same ones."""
    loader = loader_of(shuffle=False)
    passes = []
    for epoch in (0, 1, 7):
        loader.sampler.set_epoch(epoch)
        passes.append([batch[0].tolist() for batch in loader])
    assert passes[0] == passes[1] == passes[2]


def test_the_seed_decides_the_order_and_comes_from_torchs_stream():
    assert one_pass(loader_of(seed=5)) == one_pass(loader_of(seed=5)) != one_pass(loader_of(seed=6))
    torch.manual_seed(0)
    one = loader_of(seed=None).sampler.seed
    assert loader_of(seed=None).sampler.seed != one
    torch.manual_seed(0)
    assert loader_of(seed=None).sampler.seed == one


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(workers):
    loader, plain = loader_of(workers=workers), loader_of()
    for _ in range(2):
        assert [batch[0].tolist() for batch in loader] == [batch[0].tolist() for batch in plain]


# ---- stopping and going on -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("stop", [0, 1, 4, 6])
def test_an_interrupted_pass_goes_on_with_exactly_the_rest(workers, stop):
    loader = loader_of(workers=workers)
    uninterrupted = [one_pass(loader) for _ in range(4)]

    first = loader_of(workers=workers)
    one_pass(first)
    batches = iter(first)
    taken = indices(next(batches) for _ in range(stop))
    state = first.state_dict()
    assert taken == uninterrupted[1][:stop]

    resumed = loader_of(workers=workers, seed=99)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert one_pass(resumed) == uninterrupted[1][stop:]
    assert one_pass(resumed) == uninterrupted[2]
    assert one_pass(resumed) == uninterrupted[3]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("drop_last", [True, False])
def test_at_the_end_of_a_pass_the_next_one_starts(workers, drop_last):
    loader = loader_of(drop_last=drop_last)
    uninterrupted = [one_pass(loader) for _ in range(3)]
    first = loader_of(workers=workers, drop_last=drop_last)
    batches = iter(first)
    for _ in range(len(first)):  # as Lightning does: it stops at the last batch and never sees the end
        next(batches)
    for state in (first.state_dict(), dict(first.state_dict())):
        assert state == {"seed": 5, "epoch": 1, "items": 0, "items_per_step": 3}
        resumed = loader_of(workers=workers, drop_last=drop_last)
        resumed.load_state_dict(state)
        assert one_pass(resumed) == uninterrupted[1]
        assert one_pass(resumed) == uninterrupted[2]


def test_a_resumed_pass_can_be_interrupted_again():
    loader = loader_of()
    whole = one_pass(loader)
    state, seen = loader_of().state_dict(), []
    for count in (2, 3):
        part = loader_of(seed=1)
        part.load_state_dict(state)
        batches = iter(part)
        seen += indices(next(batches) for _ in range(count))
        state = part.state_dict()
    last = loader_of(seed=2)
    last.load_state_dict(state)
    assert seen + one_pass(last) == whole


def test_batches_that_workers_fetched_ahead_do_not_count():
    loader = loader_of(workers=2)
    batches = iter(loader)
    next(batches)
    assert loader.state_dict()["items"] == 3


@pytest.mark.parametrize(("batch_size", "resumed_at"), [(2, 4), (5, 2), (12, 0)])
def test_a_pass_goes_on_after_the_same_items_with_batches_of_another_size(batch_size, resumed_at, caplog):
    """9 of 23 items are used; 14 are left, and those that fill a batch come."""
    whole = sum(one_pass(loader_of()), ())
    first = loader_of()
    batches = iter(first)
    used = sum(indices(next(batches) for _ in range(3)), ())
    resumed = loader_of(batch_size=batch_size)
    resumed.load_state_dict(first.state_dict())
    assert resumed.resumed_at == resumed_at
    assert caplog.messages == [f"resumed with {batch_size} items per batch (over all processes) instead of 3, after the same items"]
    rest = sum(one_pass(resumed), ())
    assert len(rest) == 14 // batch_size * batch_size
    assert (used + rest)[:21] == whole[: 9 + len(rest)]


def test_a_rest_that_fills_no_batch_is_left_out():
    first, plain = loader_of(), loader_of(batch_size=20)
    batches = iter(first)
    for _ in range(3):
        next(batches)
    resumed = loader_of(batch_size=20)
    resumed.load_state_dict(first.state_dict())
    one_pass(plain)
    assert resumed.resumed_at == len(resumed)
    assert one_pass(resumed) == one_pass(plain)


def test_positions_of_older_checkpoints_are_read():
    whole, resumed = one_pass(loader_of()), loader_of()
    resumed.load_state_dict({"seed": 5, "epoch": 0, "batches": 2})
    assert one_pass(resumed) == whole[2:]


def test_the_state_is_plain_numbers():
    loader = loader_of()
    next(iter(loader))
    assert all(type(value) is int for value in loader.state_dict().values())


# ---- several processes of a run --------------------------------------------------------------------------------------------------------


class Split(ResumableSampler):
    def __init__(self, *args, world, rank, **options):
        super().__init__(*args, **options)
        self.world, self.rank_here = world, rank

    def _split(self):
        return self.world, self.rank_here


@pytest.mark.parametrize("world", [1, 2, 3, 5])
@pytest.mark.parametrize("drop_last", [True, False])
def test_the_split_is_a_partition(world, drop_last):
    samplers = [Split(Keys(23), world=world, rank=rank, seed=1, drop_last=drop_last) for rank in range(world)]
    parts = [[key.index for key in sampler] for sampler in samplers]
    assert {len(part) for part in parts} == {len(samplers[0])}, "every process gets as much"
    together = [index for part in parts for index in part]
    if drop_last:
        assert len(set(together)) == len(together) == 23 // world * world
    else:
        assert set(together) == set(range(23)) and len(together) - 23 < world


def test_fewer_items_than_processes_are_repeated_rather_than_missing():
    samplers = [Split(Keys(2), world=5, rank=rank, seed=1, drop_last=False) for rank in range(5)]
    assert all(len(list(sampler)) == 1 for sampler in samplers)


def _report_indices(rank, world, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    loader = make_loader(Keys(23), batch_size=2, num_workers=0, shuffle=True, drop_last=True, seed=3)
    delivered = [index for batch in indices(loader) for index in batch]
    np.save(f"{folder}/{rank}.npy", np.array([*delivered, len(loader)]))
    torch.distributed.destroy_process_group()


def test_real_processes_share_a_pass(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_report_indices, args=(rank, 2, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    parts = [np.load(tmp_path / f"{rank}.npy").tolist() for rank in range(2)]
    assert [part.pop() for part in parts] == [5, 5]
    assert len(set(parts[0] + parts[1])) == 20


# ---- workers and signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_outlive_a_signal_to_the_whole_group(number):
    """Ctrl-C reaches workers too. If they died of it, the run would fail on the next batch instead of saving a checkpoint."""
    loader = loader_of(count=60, batch_size=1, workers=2)
    batches = iter(loader)
    workers = {info["pid"] for _ in range(4) for info in next(batches)[1]}
    assert len(workers) == 2 and os.getpid() not in workers
    for pid in workers:
        os.kill(pid, number)
    assert {info["pid"] for batch in batches for info in batch[1]} == workers


# ---- batches -------------------------------------------------------------------------------------------------------------------------


def test_a_batch_is_stacked_audio_and_a_tuple_of_metadata():
    samples = [(torch.full((2, 3), float(n)), {"path": str(n)}) for n in range(4)]
    audio, metadata = collation_fn(samples)
    assert audio.shape == (4, 2, 3) and metadata == tuple({"path": str(n)} for n in range(4))


def test_numbers_become_arrays_and_arrays_are_stacked():
    numbers, arrays, words = collation_fn([(1, np.ones(2), "a"), (2, np.zeros(2), "b")])
    assert isinstance(numbers, np.ndarray) and numbers.tolist() == [1, 2]
    assert arrays.tolist() == [[1, 1], [0, 0]]
    assert words == ("a", "b")


class _Masked(Dataset):
    """Items with a mask: even ones have one that is one everywhere."""

    def __len__(self):
        return 4

    def __getitem__(self, key):
        mask = torch.ones(1000)
        if key.index % 2:
            mask[600:] = 0
        return torch.zeros(1, 1000), {"padding_mask": mask, "index": key.index}


@pytest.mark.parametrize("workers", [0, 1])
def test_masks_arrive_whole_and_full_ones_are_sent_as_one_number(workers):
    loader = make_loader(_Masked(), batch_size=2, num_workers=workers, shuffle=False, drop_last=False)
    for _, metadata in loader:
        for item in metadata:
            mask = item["padding_mask"]
            assert mask.shape == (1000,) and mask.dtype == torch.float32
            assert int(mask.sum()) == (600 if item["index"] % 2 else 1000)
            is_full = item["index"] % 2 == 0
            assert mask.untyped_storage().nbytes() == (4 if is_full and workers else 4000)
