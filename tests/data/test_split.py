import pytest

from stable_audio_tools.data.split import by_file, by_folder, by_metadata, by_regex, split, write_lists
from stable_audio_tools.errors import DataError


def rows_of(paths, contents=None):
    return [{"path": path, "sha256": (contents or {}).get(path, path), "error": None} for path in paths]


PATHS = [f"{index % 7}/{index:03}.wav" for index in range(200)]


@pytest.mark.parametrize("shares", [{"train": 0.9, "val": 0.1}, {"train": 0.5, "val": 0.3, "test": 0.2}])
def test_a_split_by_file_is_a_partition_of_the_sizes_asked_for(shares):
    sets = split(rows_of(PATHS), shares, group_of=by_file)
    assert sorted(path for paths in sets.values() for path in paths) == sorted(PATHS)
    assert {name: len(paths) for name, paths in sets.items()} == {name: round(200 * share) for name, share in shares.items()}


def test_the_same_seed_is_the_same_split_whatever_the_order():
    shares = {"train": 0.8, "val": 0.2}
    first = split(rows_of(PATHS), shares, group_of=by_file, seed=3)
    assert split(rows_of(reversed(PATHS)), shares, group_of=by_file, seed=3) == first
    other = split(rows_of(PATHS), shares, group_of=by_file, seed=4)
    assert other != first and len(set(other["val"]) & set(first["val"])) < 20


@pytest.mark.parametrize(
    ("group_of", "key"),
    [
        (by_folder, lambda path: path.split("/")[0]),
        (by_regex(r"(\d)\.wav"), lambda path: path[-5]),
        (by_metadata("artist", lambda path: {"artist": int(path[-6])}), lambda path: path[-6]),
    ],
)
def test_groups_stay_together(group_of, key):
    sets = split(rows_of(PATHS), {"train": 0.7, "val": 0.3}, group_of=group_of)
    groups = [{key(path) for path in paths} for paths in sets.values()]
    assert not groups[0] & groups[1]
    assert 30 <= len(sets["val"]) <= 90


def test_duplicates_stay_together_and_bring_their_groups():
    contents = {"0/000.wav": "x", "1/001.wav": "x", "1/008.wav": "y", "2/002.wav": "y"}
    for seed in range(5):
        sets = split(rows_of(PATHS, contents), {"train": 0.5, "val": 0.5}, group_of=by_folder, seed=seed)
        where = {path[0]: name for name, paths in sets.items() for path in paths}
        assert where["0"] == where["1"] == where["2"]
        files = split(rows_of(PATHS, contents), {"train": 0.5, "val": 0.5}, group_of=by_file, seed=seed)
        assert all(("0/000.wav" in paths) == ("1/001.wav" in paths) for paths in files.values())


def test_files_that_cannot_be_decoded_are_in_no_set():
    rows = [*rows_of(PATHS[:10]), {"path": "bad.wav", "sha256": "b", "error": "damaged"}]
    assert sum(map(len, split(rows, {"train": 0.5, "val": 0.5}, group_of=by_file).values())) == 10


@pytest.mark.parametrize(
    ("shares", "group_of", "message"),
    [
        ({"train": 0.9, "val": 0.2}, by_file, r"shares must be above 0 and sum to 1, got train 0\.9, val 0\.2"),
        ({"train": 1.1, "val": -0.1}, by_file, r"shares must be above 0 and sum to 1, got train 1\.1, val -0\.1"),
        ({"train": 0.5, "val": 0.5}, by_regex("wav"), r"1 group of files cannot be divided into 2 sets \(train, val\)"),
        ({"train": 0.99, "val": 0.01}, by_folder, r"nothing is left for val: 7 groups of 200 files are too coarse for these shares"),
        ({"train": 0.5, "val": 0.5}, by_regex("take"), r"\d/\d+\.wav: 'take' finds nothing in it, so it belongs to no group"),
        (
            {"train": 0.5, "val": 0.5}, by_metadata("artist", lambda path: {"prompt": "x"}),
            r"wav: has no metadata 'artist', so it belongs to no group; it has prompt",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(shares, group_of, message):
    with pytest.raises(DataError, match=message):
        split(rows_of(PATHS), shares, group_of=group_of)


def test_a_wrong_pattern_is_refused():
    with pytest.raises(DataError, match=r"'\(' is not a regular expression: missing \)"):
        by_regex("(")


def test_lists_are_written_as_datasets_read_them(tmp_path):
    from stable_audio_tools.data.files import read_filelist

    sets = {"train": ["a/x.wav", "caf\u00e9.wav"], "val": ["b.wav"]}
    written = write_lists(sets, tmp_path / "new" / "splits")
    assert [path.name for path in written] == ["train.txt", "val.txt"]
    assert [read_filelist(path) for path in written] == list(sets.values())
