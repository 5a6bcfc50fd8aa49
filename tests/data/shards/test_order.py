import itertools
import multiprocessing

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from stable_audio_tools.data.base import ItemKey
from stable_audio_tools.data.loader import make_loader
from stable_audio_tools.data.shards.order import ShardSampler

SIZES = [5, 40, 1, 17, 30, 10, 57, 12, 20, 8]  # 200 samples


class Shards(Dataset):
    """Samples that say which key and which worker they were asked for."""

    def __init__(self, sizes=SIZES, window=8, epoch_steps=None, weights=None, bucket_lengths=None):
        self.bucket_lengths = bucket_lengths
        self.shard_starts = np.cumsum([0, *sizes])
        self.shard_weights = np.array(weights or [1.0] * len(sizes))
        self.shuffle_window = window
        self.epoch_steps = epoch_steps

    def __len__(self):
        return int(self.shard_starts[-1])

    def __getitem__(self, key: ItemKey):
        worker = torch.utils.data.get_worker_info()
        return torch.tensor([key.index, key.epoch, key.draw, worker.id if worker else 0]), {}

    def sampler(self, **options):
        return ShardSampler(self, **options)


class Split(ShardSampler):
    """One process of a run of several."""

    def __init__(self, *args, world, rank, **options):
        super().__init__(*args, **options)
        self.place = world, rank

    def _split(self):
        return self.place


def parts_of(data, world, workers, batch=3, *, epoch=0, **options):
    samplers = [
        Split(data, world=world, rank=rank, batch_size=batch, num_workers=workers, **{"seed": 5, **options}) for rank in range(world)
    ]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    parts = [[key.index for key in sampler] for sampler in samplers]
    assert {len(part) for part in parts} == {len(sampler) for sampler in samplers} and len(set(map(len, parts))) == 1
    return parts


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("sizes", [SIZES, [200], [1] * 200])
def test_a_pass_has_each_sample_once_over_all_processes_and_workers(world, workers, sizes):
    together = list(itertools.chain(*parts_of(Shards(sizes), world, workers)))
    assert len(set(together)) == len(together) == 200 // world * world
    everything = list(itertools.chain(*parts_of(Shards(sizes), world, workers, drop_last=False)))
    assert set(everything) == set(range(200)) and len(everything) - 200 < world


def test_fewer_samples_than_processes_are_repeated_rather_than_missing():
    assert all(len(part) == 1 for part in parts_of(Shards([2]), 5, 2, drop_last=False))
    assert all(part == [] for part in parts_of(Shards([2]), 5, 2))


def test_passes_differ_and_seeds_decide():
    data = Shards()
    assert parts_of(data, 2, 2) == parts_of(data, 2, 2) != parts_of(data, 2, 2, epoch=1)
    assert parts_of(data, 2, 2) != parts_of(data, 2, 2, seed=6)


def test_without_shuffling_samples_come_in_order_whatever_the_rest():
    data = Shards(epoch_steps=3)
    for workers in (0, 3):
        (part,) = parts_of(data, 1, workers, shuffle=False, drop_last=False)
        assert part == list(range(200))


@pytest.mark.parametrize("window", [0, 8, 50])
def test_each_worker_reads_a_stretch_of_shards_from_end_to_end(window):
    """What makes reading from afar cheap: a worker meets few shards, and goes through each forwards but for the window."""
    data = Shards([50] * 40, window=window)
    (part,) = parts_of(data, 1, 4, batch=5)
    for worker in range(4):
        batches = [part[first : first + 5] for first in range(0, 2000, 5)][worker::4]
        seen = [index for batch in batches for index in batch]
        assert len({index // 50 for index in seen}) <= 12 + 1
        best = {}
        for index in seen:
            shard = index // 50
            assert index >= best.get(shard, -1) - window
            best[shard] = max(best.get(shard, -1), index)
    assert window == 0 or part != sorted(part)


def test_samples_are_mixed_over_the_window():
    (part,) = parts_of(Shards([1000], window=100), 1, 1)
    moved = np.abs(np.array(part) - np.arange(999 + 1))
    assert moved.max() <= 100 and moved.mean() > 20


# ---- shards drawn with repetition ----------------------------------------------------------------------------------------------------


def test_a_pass_of_draws_is_as_long_as_asked():
    data = Shards(epoch_steps=7)
    parts = parts_of(data, 3, 2, batch=4)
    assert [len(part) for part in parts] == [28, 28, 28]
    loader = make_loader(data, batch_size=4, num_workers=0, shuffle=True, drop_last=True, seed=1)
    assert len(loader) == len(list(loader)) == 7


def test_all_samples_are_drawn_equally_often_whatever_shard_they_are_in():
    counts = np.zeros(100)
    for epoch in range(400):  # of stretches that are shorter than the longest shard, and longer than the others
        (part,) = parts_of(Shards([2, 10, 88], epoch_steps=5), 1, 5, batch=25, epoch=epoch)
        counts += np.bincount(part, minlength=100)
    assert 400 < counts[:2].mean() < 600 and 400 < counts[2:12].mean() < 600 and counts.min() > 350


def test_weights_draw_samples_of_a_shard_more_often():
    data = Shards([50, 50], epoch_steps=200, weights=[3.0, 1.0])
    (part,) = parts_of(data, 1, 4, batch=100)
    share = np.mean(np.array(part) < 50)
    assert 0.65 < share < 0.85


def test_each_draw_of_a_sample_is_another():
    data = Shards([3], epoch_steps=5)
    keys = list(ShardSampler(data, seed=1, batch_size=4, num_workers=0))
    assert len({key.index for key in keys}) == 3 and len(set(keys)) == 20


# ---- loaders: workers, stopping, going on ----------------------------------------------------------------------------------------------


def loader_of(workers=2, batch=3, data=None, seed=5, drop_last=True):
    return make_loader(data or Shards(), batch_size=batch, num_workers=workers, shuffle=True, drop_last=drop_last, seed=seed)


def indices(batches):
    return [tuple(batch[0][:, 0].tolist()) for batch in batches]


def test_workers_get_their_own_stretches():
    batches = [batch[0] for batch in loader_of(data=Shards([100, 100], window=0))]
    for worker in range(2):
        seen = [int(index) for batch in batches if int(batch[0, 3]) == worker for index in batch[:, 0]]
        assert sum(after != before + 1 for before, after in itertools.pairwise(seen)) <= 1


@pytest.mark.parametrize("epoch_steps", [None, 40])
@pytest.mark.parametrize("stop", [1, 10, 39])
def test_an_interrupted_pass_goes_on_with_exactly_the_rest(stop, epoch_steps):
    data = Shards(epoch_steps=epoch_steps)
    loader = loader_of(data=data)
    whole = [indices(loader) for _ in range(3)]
    first = loader_of(data=data)
    indices(first)
    batches = iter(first)
    assert indices(next(batches) for _ in range(stop)) == whole[1][:stop]
    resumed = loader_of(data=data, seed=99)
    resumed.load_state_dict(first.state_dict())
    assert resumed.state_dict() == first.state_dict()
    assert indices(resumed) == whole[1][stop:]
    assert indices(resumed) == whole[2]


@pytest.mark.parametrize("again", [{"workers": 0}, {"workers": 1}, {"batch": 6}, {"batch": 2, "workers": 0}])
def test_a_run_goes_on_with_other_numbers_and_the_same_samples(again):
    """The order depends on the number of workers; a pass that was begun keeps the order it was begun with."""
    whole = sum(indices(loader_of(drop_last=False)), ())
    first = loader_of(drop_last=False)
    batches = iter(first)
    used = sum(indices(next(batches) for _ in range(20)), ())
    resumed = loader_of(drop_last=False, **again)
    resumed.load_state_dict(first.state_dict())
    rest = sum(indices(resumed), ())
    assert used + rest == whole
    assert len(set(sum(indices(resumed), ()))) == 200, "and the next pass is a whole one of its own"


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (4, 2)])
def test_a_run_goes_on_with_another_number_of_processes(before, after):
    data = Shards()
    samplers = [Split(data, world=before, rank=rank, batch_size=5, num_workers=2, seed=5) for rank in range(before)]
    used = [key.index for sampler in samplers for key in itertools.islice(sampler, 20)]
    state = samplers[0].extra_state()
    rest = []
    for rank in range(after):
        sampler = Split(data, world=after, rank=rank, batch_size=3, num_workers=1, seed=5)
        sampler.load_extra_state(state, 0)
        sampler.start = 20 * before // after
        rest += [key.index for key in sampler]
    assert sorted(used + rest) == list(range(200))


def _report(rank, world, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/init", rank=rank, world_size=world)
    np.save(f"{folder}/{rank}.npy", np.concatenate([batch[0].numpy() for batch in loader_of(batch=5)]))
    torch.distributed.destroy_process_group()


def test_two_processes_with_two_workers_each_see_every_sample_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_report, args=(rank, 2, str(tmp_path))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    seen = [np.load(tmp_path / f"{rank}.npy") for rank in range(2)]
    assert sorted(np.concatenate(seen)[:, 0]) == list(range(200))
    assert all(set(part[:, 3]) == {0, 1} for part in seen)


# ---- batches of one length -------------------------------------------------------------------------------------------------------------

LENGTHS = np.random.default_rng(0).choice([10, 20, 40, 80], 200).tolist()


class Lengthy(Shards):
    """Samples of four lengths, mixed in every shard; they check that they are asked for no less than they have."""

    def __init__(self, sizes=SIZES, **options):
        super().__init__(sizes, **{"window": 60, "bucket_lengths": LENGTHS, **options})

    def __getitem__(self, key: ItemKey):
        assert key.length is not None and key.length >= LENGTHS[key.index]
        return torch.tensor([key.index, key.length, LENGTHS[key.index]]), {}


def keys_of(data, world, workers, batch=3, **options):
    """Keys of each process."""
    samplers = [
        Split(data, world=world, rank=rank, batch_size=batch, num_workers=workers, **{"seed": 5, **options}) for rank in range(world)
    ]
    return [list(sampler) for sampler in samplers]


@pytest.mark.parametrize("options", [{}, {"shuffle": False}, {"drop_last": False}, {"shuffle": False, "drop_last": False}])
@pytest.mark.parametrize("workers", [0, 3])
@pytest.mark.parametrize("world", [1, 3])
def test_batches_have_one_length_and_a_pass_has_each_sample_once(world, workers, options):
    parts = keys_of(Lengthy(), world, workers, **options)
    batches = [part[first : first + 3] for part in parts for first in range(0, len(part), 3)]
    assert all(len({key.length for key in batch}) == 1 for batch in batches)
    assert all(batch[0].length == max(LENGTHS[key.index] for key in batch) for batch in batches)
    together = [key.index for part in parts for key in part]
    if options.get("drop_last", True):
        assert len(set(together)) == len(together) == 200 // world * world
    else:
        assert set(together) == set(range(200)) and len(together) - 200 < world


def test_few_samples_are_padded_further_than_their_own_bucket():
    """At most one batch less one for each bucket but the longest, of each window; and what fills no batch."""
    (part,) = keys_of(Lengthy(window=60), 1, 1, batch=4)
    further = sum(key.length > LENGTHS[key.index] for key in part)
    assert 0 < further <= 4 * 3 * 3 + 4
    (mixed,) = keys_of(Lengthy(window=4), 1, 1, batch=4)
    assert sum(key.length for key in part) < 0.75 * sum(key.length for key in mixed)


def test_batches_of_all_lengths_are_mixed_and_passes_differ():
    loader = loader_of(data=Lengthy(), workers=0, batch=4)
    passes = [[(int(batch[0][0, 1]), sorted(batch[0][:, 0].tolist())) for batch in loader] for _ in range(2)]
    lengths = [length for length, _ in passes[0]]
    assert passes[0] != passes[1] and sum(after < before for before, after in itertools.pairwise(lengths)) > 10


def test_without_shuffling_every_pass_is_the_same():
    data = Lengthy([50], window=20)
    sampler = Split(data, world=1, rank=0, batch_size=4, num_workers=2, shuffle=False, seed=1)
    assert list(sampler) == list(sampler)
    for first in range(0, 48, 20):
        stretch = [key.index for key in sampler][first : min(first + 20, 48)]
        assert stretch == sorted(range(first, min(first + 20, 48)), key=lambda index: data.bucket_lengths[index]), "in order, but by length"


def test_samples_stay_near_where_they_are():
    """A worker reads ahead by no more than two windows: one to mix, one to sort."""
    (part,) = keys_of(Lengthy([200], window=30), 1, 1, batch=5)
    assert np.abs(np.array([key.index for key in part]) - np.arange(200)).max() <= 60


@pytest.mark.parametrize("epoch_steps", [None, 40])
@pytest.mark.parametrize("stop", [1, 10, 39])
@pytest.mark.parametrize("again", [0, 1])
def test_an_interrupted_pass_of_batches_by_length_goes_on_with_exactly_the_rest(stop, epoch_steps, again):
    """With another number of workers too."""
    data = Lengthy(epoch_steps=epoch_steps)
    whole = [indices(loader_of(data=data)) for _ in range(2)]
    assert whole[0] == whole[1]
    first = loader_of(data=data)
    batches = iter(first)
    assert indices(next(batches) for _ in range(stop)) == whole[0][:stop]
    resumed = loader_of(data=data, seed=99, workers=again)
    resumed.load_state_dict(first.state_dict())
    assert indices(resumed) == whole[0][stop:]


def test_draws_of_batches_by_length_have_crops_of_their_own():
    data = Lengthy([2, 3], epoch_steps=10)
    sampler = ShardSampler(data, shuffle=True, batch_size=3, num_workers=2, seed=5)
    keys = list(sampler)
    assert len(keys) == 30 == len(set(keys)) and len({key.index for key in keys}) == 5
    assert all(len({key.length for key in keys[first : first + 3]}) == 1 for first in range(0, 30, 3))


def test_with_other_batches_a_pass_begins_anew_and_says_so(caplog):
    first = loader_of(data=Lengthy(), batch=4)
    next(iter(first))
    second = loader_of(data=Lengthy(), batch=5)
    second.load_state_dict(first.state_dict())
    message = (
        "resumed with 1 processes of 5 items per batch instead of 1 of 4, on which the order of length buckets depends: this pass begi"
    )
    assert message in caplog.text and second.resumed_at == 0
    assert sorted(sum(indices(second), ())) == list(range(200))


def test_other_processes_with_as_many_items_per_step_are_an_obstacle_too():
    state = {"shard_world": 2, "shard_streams": 1, "shard_batch": 4}
    sampler = Split(Lengthy(), world=4, rank=0, batch_size=2, num_workers=1, seed=5)
    assert sampler.obstacle(state) == "4 processes of 2 items per batch instead of 2 of 4"
    assert Split(Lengthy(), world=2, rank=1, batch_size=4, num_workers=7, seed=5).obstacle(state) == ""
    assert Split(Shards(), world=4, rank=0, batch_size=2, num_workers=1, seed=5).obstacle(state) == ""
