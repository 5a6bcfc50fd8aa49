import os
import tempfile
from pathlib import Path

import pytest

from stable_audio_tools.audio import AUDIO_EXTENSIONS
from stable_audio_tools.data.files import PathList, fast_scandir, find_audio_files, read_filelist, read_lines, roots_of
from stable_audio_tools.errors import DataError


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def names_of(folder):
    return [path.relative_to(folder).as_posix() for path in find_audio_files(folder)]


def test_audio_files_are_found_sorted_at_every_depth(tmp_path):
    touch(tmp_path, "z.wav", "a/z.flac", "b.mp3", "a/b/c/deep.ogg", "A.WAV", "notes.txt", "captions.csv", "noext", "wav")
    assert names_of(tmp_path) == ["A.WAV", "a/b/c/deep.ogg", "a/z.flac", "b.mp3", "z.wav"]


def test_the_order_does_not_depend_on_the_order_of_creation(tmp_path):
    names = [f"{index * 7919 % 100:02}/{index}.wav" for index in range(40)]
    touch(tmp_path / "x", *names)
    touch(tmp_path / "y", *reversed(names))
    assert names_of(tmp_path / "x") == names_of(tmp_path / "y")


def test_every_extension_that_can_be_decoded_is_found(tmp_path):
    touch(tmp_path, *(f"x{suffix}" for suffix in AUDIO_EXTENSIONS))
    assert {".wav", ".mp3", ".flac", ".ogg", ".aif", ".opus", ".m4a", ".aiff"} <= set(AUDIO_EXTENSIONS)
    assert len(find_audio_files(tmp_path)) == len(AUDIO_EXTENSIONS)


def test_hidden_files_and_folders_are_left_out_unless_the_folder_itself_is_hidden(tmp_path):
    touch(tmp_path / ".data", "kept.wav", "._kept.wav", ".hidden.wav", ".trash/gone.wav")
    assert names_of(tmp_path / ".data") == ["kept.wav"]
    assert names_of(tmp_path) == []


def test_a_folder_named_like_a_file_is_a_folder(tmp_path):
    touch(tmp_path, "loop.wav/inside.wav")
    assert names_of(tmp_path) == ["loop.wav/inside.wav"]


def test_links_to_files_and_folders_are_followed(tmp_path):
    touch(tmp_path / "elsewhere", "far.wav")
    touch(tmp_path / "data", "near.wav")
    (tmp_path / "data" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "single.wav").symlink_to(tmp_path / "elsewhere" / "far.wav")
    assert names_of(tmp_path / "data") == ["linked/far.wav", "near.wav", "single.wav"]


def test_a_folder_reached_twice_is_listed_once_and_loops_end(tmp_path):
    touch(tmp_path, "a/1.wav", "b/2.wav")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    (tmp_path / "c").symlink_to(tmp_path / "b")
    assert names_of(tmp_path) == ["a/1.wav", "b/2.wav"]


def test_a_missing_folder_and_a_file_instead_of_one_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: no such folder; a dataset's path is a folder of audio files"):
        find_audio_files(tmp_path / "nowhere")
    touch(tmp_path, "one.wav")
    with pytest.raises(DataError, match=r"one\.wav: is a file, not a folder; a dataset's path is a folder"):
        find_audio_files(tmp_path / "one.wav")


def test_a_folder_that_cannot_be_read_is_an_error_not_fewer_files():
    is_root = os.geteuid() == 0  # who may read everything, so become nobody for a while
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        touch(root, "open.wav", "locked/x.wav")
        (root / "locked").chmod(0)
        try:
            if is_root:
                os.seteuid(65534)
            with pytest.raises(DataError, match=r"locked: cannot be read: Permission denied"):
                find_audio_files(root)
        finally:
            if is_root:
                os.seteuid(0)
            (root / "locked").chmod(0o700)


def test_fast_scandir_lists_folders_and_files(tmp_path):
    touch(tmp_path, "a/b/1.wav", "a/2.WAV", "3.flac")
    folders, files = fast_scandir(str(tmp_path), ["wav"])
    assert folders == [str(tmp_path / "a"), str(tmp_path / "a/b")]
    assert files == [str(tmp_path / "a/2.WAV"), str(tmp_path / "a/b/1.wav")]
    assert fast_scandir(str(tmp_path), [".wav", ".flac"])[1] == [str(tmp_path / "3.flac"), *files]


def test_fast_scandir_ends_in_loops(tmp_path):
    touch(tmp_path, "a/1.wav")
    for name in ("x", "y", "z"):
        (tmp_path / "a" / name).symlink_to(tmp_path / "a")
    folders, files = fast_scandir(str(tmp_path), ["wav"])
    assert files == [str(tmp_path / "a/1.wav")]
    assert str(tmp_path / "a") in folders


# ---- lists of paths ------------------------------------------------------------------------------------------------------------------


def list_of(tmp_path, text, name="list.txt"):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path / name


def test_a_list_has_an_entry_per_line(tmp_path):
    text = "\ufeff# a comment\n\n  drums/kick.wav  \r\ndrums\\snare.wav\n./hat.wav\na//b/../c.wav\nD:\\music\\x.wav\n"
    assert read_lines(list_of(tmp_path, text)) == ["drums/kick.wav", "drums/snare.wav", "hat.wav", "a/c.wav", "D:/music/x.wav"]


def test_a_missing_list_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no\.txt: cannot be read: No such file.*; a list of paths is a text file with one path per line"):
        PathList(tmp_path / "no.txt")


@pytest.mark.parametrize(
    "entry", ["audio/14/214.mp3", "{absolute}/14/214.mp3", "214.mp3", "214", "14/214.mp3", "14/214", "14\\214.mp3", "{link}/14/214.mp3"]
)
def test_every_way_to_write_a_file_means_it(tmp_path, monkeypatch, entry):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path / "audio", "14/214.mp3")
    (tmp_path / "link").symlink_to(tmp_path / "audio")
    entry = entry.format(absolute=tmp_path / "audio", link=tmp_path / "audio")
    for root in ("audio", tmp_path / "audio", "link"):
        if entry.startswith("audio/") and root != "audio":
            continue
        paths = PathList(list_of(tmp_path, entry))
        assert paths.means("14/214.mp3", roots_of(Path(root)))
        assert not paths.means("14/2140.mp3", roots_of(Path(root)))


def test_accents_in_lists_are_those_of_any_system(tmp_path):
    apart, together = "caf" + chr(0x65) + chr(0x301), "caf" + chr(0xE9)
    for listed, name in ((apart, together), (together, apart)):
        assert PathList(list_of(tmp_path, f"{listed}.wav\n")).means(f"bar/{name}.wav", {"."})


def test_entries_that_mean_nothing_are_named(tmp_path, caplog):
    paths = PathList(list_of(tmp_path, "a.wav\nb.wav\nc\nd\ne\n"))
    paths.means("x/a.wav", {"."})
    paths.say_what_is_unused()
    assert "4 of 5 entries mean no file of the dataset (b.wav, c, d, ...)" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", r"list\.txt: names no files; delete it to use all files of the folder"),
        ("a.wav\n../b.wav\n", r"list\.txt: '\.\./b\.wav' is not below the dataset's folder; paths in it are relative to that folder"),
        ("/etc/b.wav\n", r"list\.txt: '/etc/b\.wav' is not below the dataset's folder"),
    ],
)
def test_wrong_filelists(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_filelist(list_of(tmp_path, text))
