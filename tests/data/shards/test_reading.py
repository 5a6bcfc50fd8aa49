"""Listing shards and reading parts of them: from folders, from servers, over connections that break."""

import json
import multiprocessing
import pickle

import pytest

from stable_audio_tools.data.shards import listing, reader
from stable_audio_tools.data.shards.listing import expand_braces, index_shards, list_shards
from stable_audio_tools.data.shards.reader import ShardReader
from stable_audio_tools.data.shards.storage import MAX_TRIES, Storage
from stable_audio_tools.data.shards.tars import format_index
from stable_audio_tools.errors import DataError, MissingExtraError


def members_of(url, **options):
    """Name -> content of every member, read one by one."""
    storage = Storage(url, options)
    shards, _ = list_shards(url, storage)
    pile = ShardReader()
    found = {}
    for shard, index in zip(shards, index_shards(shards), strict=True):
        assert not index.broken
        for sample in index.samples:
            pile.check(shard, sample.members[0])
            found |= {member.name: pile.read(shard, member) for member in sample.members}
    return found


@pytest.fixture
def shards(tmp_path, write_shards):
    return write_shards(tmp_path / "shards")


@pytest.fixture
def expected(shards):
    return members_of(str(shards))


def test_members_of_a_folder_are_read(shards, expected):
    assert len(expected) == 20
    assert json.loads(expected["a/007.json"]) == {"text": "clip 7", "number": 7}
    assert expected["a/007.wav"].startswith(b"RIFF")
    assert members_of(f"file://{shards}") == expected


def test_braces_are_expanded_as_a_shell_does():
    assert expand_braces("a-{08..11}.tar") == ["a-08.tar", "a-09.tar", "a-10.tar", "a-11.tar"]
    assert expand_braces("{a,b}/{0..1}") == ["a/0", "a/1", "b/0", "b/1"]
    assert expand_braces("plain") == ["plain"]


def test_a_url_names_a_folder_or_a_shard_or_several_or_a_manifest(shards):
    def names(url):
        found, counts = list_shards(url, Storage(url))
        return [shard.url.rsplit("/", 1)[-1] for shard in found], counts

    assert names(str(shards)) == (["0.tar", "1.tar", "2.tar"], {})
    assert names(f"{shards}/1.tar") == (["1.tar"], {})
    assert names(f"{shards}/{{0..1}}.tar") == (["0.tar", "1.tar"], {})
    (shards / "some.json").write_text(json.dumps({"shardlist": [{"url": "2.tar", "nsamples": 5}]}))
    assert names(f"{shards}/some.json") == (["2.tar"], {f"{shards}/2.tar": 5})


def test_a_shard_that_a_manifest_names_and_is_not_there_is_an_error(shards):
    (shards / "index.json").write_text(json.dumps({"shardlist": [{"url": "7.tar", "nsamples": 5}]}))
    with pytest.raises(DataError, match=r"index.json: names 1 shards that are not there, first .*/7.tar; upload them again"):
        list_shards(str(shards), Storage(str(shards)))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], r"/empty: no shards \(.tar\) found; write a folder of .tar files, or one of them$"),
        (["a.tar.gz"], r"/empty: no shards \(.tar\) found; .*a.tar.gz is compressed: unpack it to a plain .tar$"),
    ],
)
def test_no_shards_is_an_error(tmp_path, files, message):
    (tmp_path / "empty").mkdir()
    for name in files:
        (tmp_path / "empty" / name).touch()
    url = str(tmp_path / "empty")
    with pytest.raises(DataError, match=message):
        list_shards(url, Storage(url))
    with pytest.raises(DataError, match=r"/none/0.tar: no such file$"):
        list_shards(f"{tmp_path}/none/0.tar", Storage(url))


def test_an_unknown_kind_of_url_is_an_error_and_a_missing_package_is_named(monkeypatch):
    with pytest.raises(DataError, match=r"^nonsense://x: ValueError: Protocol not known: nonsense"):
        Storage("nonsense://x")

    def absent(*arguments, **options):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr("stable_audio_tools.data.shards.storage.url_to_fs", absent)
    with pytest.raises(MissingExtraError, match=r'^s3:// needs a package .*Install s3fs.*pip install "stable-audio-tools\[s3\]"$'):
        Storage("s3://bucket")


# ---- from a server ---------------------------------------------------------------------------------------------------------------------


def test_shards_of_a_server_are_found_by_its_listing_by_braces_or_by_a_manifest(shards, expected, serve):
    server = serve(shards)
    assert members_of(server.url) == expected
    assert members_of(f"{server.url}/{{0..2}}.tar") == expected
    (shards / "list.json").write_text(json.dumps({"shardlist": [{"url": f"{number}.tar"} for number in range(3)]}))
    assert members_of(f"{server.url}/list.json") == expected


def test_headers_are_read_once_and_not_at_all_beside_an_index(shards, serve):
    server = serve(shards)

    def requests_of_indexing():
        storage = Storage(server.url)
        found, _ = list_shards(server.url, storage)
        server.requests.clear()
        list(index_shards(found))
        return [path for _, path, _ in server.requests if path.endswith(".tar")]

    assert requests_of_indexing()
    assert requests_of_indexing() == [], "what was read is kept on this machine"
    for shard in sorted(shards.glob("*.tar")):
        with open(shard, "rb") as file:
            index = listing.scan(file, shard.stat().st_size, "x")
        shard.with_suffix(".idx").write_text(format_index(index.samples))
    listing._kept_file(listing.Shard(f"{server.url}/0.tar", 0, Storage(server.url))).parent.rename(shards / "elsewhere")
    assert requests_of_indexing() == []


def test_an_index_that_does_not_fit_is_said_and_not_used(shards, expected, caplog):
    (shards / "0.idx").write_text("v1.2 1\nwav 512 100 a/000.wav\n")
    assert members_of(str(shards)) == expected
    assert "0.tar: the .idx file beside it does not fit it, and is not used" in caplog.text


def test_an_index_about_another_file_of_the_same_size_is_found_out(shards):
    shard = shards / "0.tar"
    with open(shard, "rb") as file:
        samples = listing.scan(file, shard.stat().st_size, "x").samples
    text = format_index(samples).replace(f" {samples[0].members[0].size} ", " 700 ")
    (shards / "0.idx").write_text(text)
    with pytest.raises(DataError, match=r"0.tar: its index is about another file \(a/000.wav is elsewhere\); delete the .idx file"):
        members_of(str(shards))


def test_large_members_are_fetched_in_blocks_of_which_the_last_are_kept(tmp_path, write_tar, serve, monkeypatch):
    monkeypatch.setattr(reader, "BLOCK_BYTES", 1000)
    write_tar(tmp_path / "0.tar", {f"{number}.bin": bytes([number]) * 2600 for number in range(5)})
    server = serve(tmp_path)
    (shard,), _ = list_shards(f"{server.url}/0.tar", Storage(server.url))
    (index,) = index_shards([shard])
    pile = ShardReader(cache_bytes=6000)
    for _ in range(2):
        for number, sample in enumerate(index.samples):
            assert pile.read(shard, sample.members[0]) == bytes([number]) * 2600
    assert len(pile._blocks) <= 6
    server.requests.clear()
    with pile.opened(shard, index.samples[2].members[0].offset, 2600, "x") as file:
        file.seek(1300)
        assert file.read(10) == bytes([2]) * 10
    assert len(server.requests) <= 4, "the rest of the member is not fetched"


# ---- when things break -----------------------------------------------------------------------------------------------------------------


def test_a_connection_that_is_cut_is_asked_again_and_loses_nothing(shards, expected, serve, cutter, caplog):
    server = serve(shards)
    proxy = cutter(server.server_port, cuts=[1500, 0, 3000, 2500, 10_000, 100])
    assert members_of(f"{proxy.url}/{{0..2}}.tar") == expected
    assert proxy.num_cut >= 4
    assert "trying again in" in caplog.text


def test_a_server_that_stays_away_is_an_error_in_the_end(shards, serve, monkeypatch):
    server = serve(shards)
    storage = Storage(server.url)
    (shard, *_), _ = list_shards(server.url, storage)
    server.status = 503
    server.requests.clear()
    with pytest.raises(DataError, match=rf"/0.tar: cannot be read, tried {MAX_TRIES} times: ClientResponseError: 503"):
        storage.read(shard.url, 0, 100)
    assert len(server.requests) == MAX_TRIES


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_an_error_at_once(shards, serve, status):
    server = serve(shards)
    server.status = status
    with pytest.raises(DataError, match=rf"/0.tar: .*{status}"):
        list_shards(f"{server.url}/0.tar", Storage(server.url))
    assert len(server.requests) <= 2


def test_a_server_without_ranges_is_an_error(tmp_path, write_tar, serve):
    write_tar(tmp_path / "0.tar", {"0.bin": bytes(200_000)})
    server = serve(tmp_path)
    server.knows_ranges = False
    with pytest.raises(DataError, match=r"0.tar: the server sends whole files when it is asked for a part"):
        members_of(f"{server.url}/0.tar")


def test_a_shard_that_vanishes_or_shrinks_is_an_error(shards, tmp_path, serve):
    storage = Storage(str(shards))
    found, _ = list_shards(str(shards), storage)
    indices = list(index_shards(found))
    (shards / "0.tar").write_bytes((shards / "0.tar").read_bytes()[:3000])
    (shards / "1.tar").unlink()
    pile = ShardReader()
    with pytest.raises(DataError, match=r"0.tar: ends at byte 3000, and had \d+ bytes when the run began"):
        pile.read(found[0], indices[0].samples[0].members[0])
    with pytest.raises(DataError, match=r"1.tar: cannot be opened any more: No such file"):
        pile.read(found[1], indices[1].samples[0].members[0])


def _read_in_child(pile, shard, member, queue):
    queue.put(pile.read(shard, member))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_with_connections_of_their_own(shards, expected, serve, method):
    server = serve(shards)
    (shard, *_), _ = list_shards(server.url, Storage(server.url))
    (index,) = index_shards([shard])
    member, pile = index.samples[1].members[0], ShardReader()
    assert pile.read(shard, member) == expected[member.name]
    if method == "spawn":
        copy = pickle.loads(pickle.dumps((pile, shard)))
        assert copy[0].read(copy[1], member) == expected[member.name]
        return
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=_read_in_child, args=(pile, shard, member, queue))
    child.start()
    assert queue.get(timeout=20) == expected[member.name]
    child.join(20)
    assert child.exitcode == 0
