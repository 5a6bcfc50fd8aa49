import gzip
import io
import tarfile

import pytest

from stable_audio_tools.data.shards.tars import format_index, is_at, parse_index, scan
from stable_audio_tools.errors import DataError


def scanned(path):
    with open(path, "rb") as file:
        return scan(file, path.stat().st_size, str(path))


LONG = "x" * 150  # beyond what a plain header holds


@pytest.fixture
def shard(tmp_path, write_tar):
    names = ["a/1.wav", "a/1.json", "a/2.Take.FLAC", f"{LONG}/ü 3.wav", f"{LONG}/ü 3.txt", "README", "a/._1.wav", "a/1.wav"]
    return write_tar(tmp_path / "0.tar", {f"{name}": name.encode() * 100 for name in names[:-1]} | {"./b/1.wav": b"5"})


def test_samples_are_files_in_a_row_whose_names_agree_up_to_the_first_dot(shard):
    index = scanned(shard)
    assert not index.broken
    assert [(sample.key, [member.ext for member in sample.members]) for sample in index.samples] == [
        ("a/1", ["wav", "json"]),
        ("a/2", ["take.flac"]),
        (f"{LONG}/ü 3", ["wav", "txt"]),
        ("b/1", ["wav"]),
    ]
    data = shard.read_bytes()
    for sample in index.samples[:3]:
        for member in sample.members:
            assert data[member.offset : member.offset + member.size] == member.name.encode() * 100
            assert is_at(data[member.offset - 512 : member.offset], member)
            assert not is_at(data[member.offset : member.offset + 512], member)


@pytest.mark.filterwarnings("ignore")  # it leaves the shard open
def test_the_samples_are_those_of_the_package_webdataset(shard):
    """But for hidden files, which it takes for samples of the name ``a/``."""
    webdataset = pytest.importorskip("webdataset")
    theirs = [sample["__key__"].removeprefix("./") for sample in webdataset.WebDataset(str(shard), shardshuffle=False)]
    assert [sample.key for sample in scanned(shard).samples] == [key for key in theirs if key != "a/"]


def test_an_index_survives_its_text(shard):
    index = scanned(shard)
    assert parse_index(format_index(index.samples), shard.stat().st_size) == index


def test_an_index_of_another_file_is_not_used(shard):
    text, size = format_index(scanned(shard).samples), shard.stat().st_size
    for wrong in (text.replace("v1.2", "v1.1"), text.replace("v1.2 4", "v1.2 5"), "", "v1.2 1\nwav x 5 a.wav", "v1.2 1\nwav 512 5 a.mp3"):
        assert parse_index(wrong, size) is None, wrong
    assert parse_index(text, size - 10240) is None
    assert parse_index(text, size + 20480) is None


def test_a_shard_that_is_cut_off_says_so_wherever_the_cut_is(shard):
    whole, data = scanned(shard), shard.read_bytes()
    ends = [member.offset + member.size for sample in whole.samples for member in sample.members]
    for cut in (*range(700, max(ends), 1111), *(512 * (end // 512 + 1) for end in ends)):
        index = scan(io.BytesIO(data[:cut]), cut, "x.tar")
        assert index.broken, cut
        members = [member for sample in index.samples for member in sample.members]
        assert all(member.offset + member.size <= cut for member in members)
        assert members == [member for sample in whole.samples for member in sample.members][: len(members)]


def test_damage_between_files_is_not_taken_for_the_end(shard):
    data = bytearray(shard.read_bytes())
    second = scanned(shard).samples[0].members[1]
    data[second.offset - 512 : second.offset - 400] = b"\xff" * 112
    index = scan(io.BytesIO(bytes(data)), len(data), "x.tar")
    assert len(index.samples) == 1 and "holds no tar header at byte" in index.broken


def test_what_is_no_shard_is_refused(tmp_path, write_tar):
    with pytest.raises(DataError, match=r"^x.tar: is no tar file"):
        scan(io.BytesIO(b"RIFF" * 1000), 4000, "x.tar")
    packed = gzip.compress(b"x" * 100_000)
    with pytest.raises(DataError, match=r"^x.tar: is no tar file .*; it is compressed, .* unpack it to a plain .tar$"):
        scan(io.BytesIO(packed), len(packed), "x.tar")
    path = tmp_path / "twice.tar"
    with tarfile.open(path, "w") as tar:
        for _ in range(2):
            tar.addfile(tarfile.TarInfo("a.wav"))
    with pytest.raises(DataError, match=r"twice.tar: names 'a.wav' twice in one sample"):
        scanned(path)


def test_names_that_the_text_cannot_hold_have_no_text(tmp_path, write_tar):
    assert format_index(scanned(write_tar(tmp_path / "0.tar", {"a\nb.wav": b"1"})).samples) is None
