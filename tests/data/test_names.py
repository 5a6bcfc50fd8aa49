import pickle

import pytest

from stable_audio_tools.data.names import Names, path_order

SOME = ["a.wav", "", "b c/\u97f3.flac", "caf\u00e9/x.mp3", "odd\udcff.wav"]


def test_names_are_what_was_packed():
    names = Names.of(SOME)
    assert list(names) == SOME and len(names) == 5
    assert (names[-1], names[1:3], names[0]) == (SOME[-1], SOME[1:3], SOME[0])
    assert list(Names.of([])) == []
    for wrong in (5, -6):
        with pytest.raises(IndexError, match=rf"name {wrong} of 5"):
            names[wrong]


def test_names_travel_to_other_processes():
    assert list(pickle.loads(pickle.dumps(Names.of(SOME)))) == SOME


def test_sorted_names_are_found():
    paths = sorted(
        {f"{index * 7919 % 13}/{index * 31 % 50}.wav" for index in range(300)} | {"a-b/x.wav", "a/x.wav", "a.wav"}, key=path_order
    )
    names = Names.of(paths)
    assert [names.find(path) for path in paths] == list(range(len(paths)))
    assert names.find("0/absent.wav") is None and names.find("~") is None and Names.of([]).find("x") is None
