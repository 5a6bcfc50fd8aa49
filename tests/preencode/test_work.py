"""The work of one process: what going through many items costs."""

import time

from stable_audio_tools.data.base import ItemDataset, ItemKey
from stable_audio_tools.preencode.machines import Place
from stable_audio_tools.preencode.work import Loading, Work


class Broken(ItemDataset):
    """Items of which none can be used, and of which none but the one that is asked for is looked at."""

    def __init__(self, count):
        self.count = count
        self.num_named = 0

    def __len__(self):
        return self.count

    def name(self, index):
        self.num_named += 1
        return f"{index}.wav"

    def exactly(self, key: ItemKey):
        return None, "broken"


def test_an_item_that_is_skipped_costs_no_look_at_all_the_others():
    """A hundred thousand took 43 hours when each made a list of all names."""
    data = Broken(100_000)
    work = Work(data, Place(), group_size=64, limit=None, shuffle=False, seed=0)
    todo = [item for group in work.groups for item in work.items(group)]
    started = time.monotonic()
    loading = Loading(work, todo)
    found = [loading[position] for position in range(len(loading))]
    assert time.monotonic() - started < 30, "about 1 s"
    assert [loaded.name for loaded in found[:2]] == ["0.wav", "1.wav"] and data.num_named == 100_000


def test_items_without_a_name_of_their_own_are_called_by_their_number():
    class Plain(Broken):
        name = ItemDataset.name

    work = Work(Plain(3), Place(), group_size=2, limit=None, shuffle=False, seed=0)
    assert Loading(work, work.items(1))[0].name == "2"
