import json
import multiprocessing
import pickle
from pathlib import Path

import pytest
import torch

from stable_audio_tools.data.metadata import RESERVED, Captions, MetadataModule, read_captions
from stable_audio_tools.errors import ConfigError, DataError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "drums").mkdir()
    (tmp_path / "drums" / "kick.wav").touch()
    return tmp_path


KICK = "drums/kick.wav"


def captions_of(folder, name=KICK, **options):
    return Captions(folder, **options)(folder / name)


# ---- sources and which wins -----------------------------------------------------------------------------------------------------


def test_without_any_source_there_is_no_caption(folder):
    assert captions_of(folder) == {}


def test_captions_csv_in_the_folder_is_found(folder):
    (folder / "captions.csv").write_text("path,caption\ndrums/kick.wav,a kick drum\n")
    assert captions_of(folder) == {"prompt": "a kick drum"}


def test_a_table_elsewhere_replaces_captions_csv(folder):
    (folder / "captions.csv").write_text("path,caption\ndrums/kick.wav,here\n")
    (folder / "other.csv").write_text("path,caption\ndrums/kick.wav,there\n")
    assert captions_of(folder, table=folder / "other.csv") == {"prompt": "there"}


def test_accents_are_those_of_any_system(folder):
    """A table from Windows or Linux, files from a Mac."""
    apart, together = "caf" + chr(0x65) + chr(0x301), "caf" + chr(0xE9)
    (folder / f"{apart}.wav").touch()
    (folder / "captions.csv").write_text(f"path,caption\n{together}.wav,a bar\n", encoding="utf-8")
    captions = Captions(folder)
    assert captions(folder / f"{apart}.wav") == {"prompt": "a bar"} and captions.source(f"{apart}.wav")[0] == "captions.csv"
    assert captions.select([f"{apart}.wav"]) == [f"{apart}.wav"] and captions.select_listed([(f"{apart}.wav", False)]) == [f"{apart}.wav"]


def test_later_sources_win_key_by_key(folder):
    def sources():
        return captions_of(folder, caption="fixed")

    assert sources() == {"prompt": "fixed"}
    (folder / "captions.csv").write_text("path,caption,bpm\ndrums/kick.wav,from the table,120\n")
    assert sources() == {"prompt": "from the table", "bpm": "120"}
    (folder / "drums/kick.txt").write_text("from the text\n")
    assert sources() == {"prompt": "from the text", "bpm": "120"}
    (folder / "drums/kick.json").write_text('{"bpm": 90}')
    assert sources() == {"prompt": "from the text", "bpm": 90}
    (folder / "drums/kick.json").write_text('{"prompt": "from the data", "seconds_pre": 0}')
    assert sources() == {"prompt": "from the data", "bpm": "120", "seconds_pre": 0}


def test_a_fixed_caption_fills_in_for_files_that_the_table_lacks(folder):
    (folder / "captions.csv").write_text("path,caption\ndrums/kick.wav,a kick\n")
    assert captions_of(folder, "drums/snare.wav", caption="a sound") == {"prompt": "a sound"}


def test_caption_in_a_json_file_is_a_prompt_unless_it_has_one(folder):
    (folder / "drums/kick.json").write_text('{"caption": "thump"}')
    assert captions_of(folder)["prompt"] == "thump"
    (folder / "drums/kick.json").write_text('{"caption": "thump", "prompt": "boom"}')
    assert captions_of(folder)["prompt"] == "boom"


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_what_the_dataset_measures_cannot_be_overwritten(folder, key):
    (folder / "drums/kick.json").write_text(json.dumps({key: 99, "x": 1}))
    (folder / "captions.csv").write_text(f"path,caption,{key if key != 'path' else 'y'}\ndrums/kick.wav,a kick,99\n")
    assert captions_of(folder).get(key) is None
    assert captions_of(folder)["x"] == 1


# ---- tables as people write them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "path,caption\ndrums/kick.wav,a kick\n",
        "caption,path\na kick,drums/kick.wav\n",
        "path,prompt\ndrums/kick.wav,a kick",
        "\ufeffpath,caption\r\ndrums/kick.wav,a kick\r\n",
        'path,caption\n"drums/kick.wav","  a kick "\n\n',
        "path,caption\ndrums\\kick.wav,a kick\n",
        "path,caption\n./drums/kick.wav,a kick\n",
        "path,caption\ndrums/kick.wav,a kick,,\n",
    ],
)
def test_tables_from_every_editor_are_read(folder, text):
    (folder / "captions.csv").write_bytes(text.encode())
    assert captions_of(folder) == {"prompt": "a kick"}


@pytest.mark.parametrize("caption", ["one, two", 'a "loud" kick', "two\nlines", "a\u2028b", "form\x0cfeed", "a\x85b", "große Trommel 太鼓"])
def test_any_caption_survives_the_table(folder, caption):
    quoted = caption.replace('"', '""')
    text = f'path,caption\ndrums/kick.wav,"{quoted}"\ndrums/snare.wav,next\n'
    (folder / "captions.csv").write_text(text, encoding="utf-8")
    assert read_captions(folder / "captions.csv") == {KICK: {"prompt": caption}, "drums/snare.wav": {"prompt": "next"}}


def test_characters_that_only_look_like_line_ends_do_not_need_quotes(folder):
    (folder / "captions.csv").write_text("path,caption\ndrums/kick.wav,a\u2028b\x0bc\n", encoding="utf-8")
    assert read_captions(folder / "captions.csv") == {KICK: {"prompt": "a\u2028b\x0bc"}}


@pytest.mark.parametrize(
    ("text", "got"), [("", "nothing"), ("file,text\na.wav,x\n", "file, text"), ("path;caption\n", "path;caption"), ("path\n", "path")]
)
def test_a_header_without_the_columns_is_refused(folder, text, got):
    (folder / "captions.csv").write_text(text)
    with pytest.raises(DataError, match=rf"captions\.csv: needs a header with the columns 'path' and 'caption', got: {got}"):
        Captions(folder)


def test_a_file_named_twice_is_refused_with_its_line(folder):
    (folder / "captions.csv").write_text("path,caption\na.wav,x\nb.wav,y\n./a.wav,z\n")
    with pytest.raises(DataError, match=r"captions\.csv:4: 'a\.wav' is named twice"):
        Captions(folder)


def test_a_table_that_is_missing_or_not_text_is_refused(folder):
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read as UTF-8 text: .*No such file"):
        Captions(folder, table=folder / "nowhere.csv")
    (folder / "captions.csv").write_bytes("path,caption\na.wav,caf\xe9\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"captions\.csv: cannot be read as UTF-8 text: .*0xe9"):
        Captions(folder)


def test_a_field_that_is_too_long_for_a_table_is_refused(folder):
    (folder / "captions.csv").write_text(f"path,caption\na.wav,{'x' * 200_000}\n")
    with pytest.raises(DataError, match=r"captions\.csv:2: not valid CSV: field larger than"):
        Captions(folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "a.wav,x\nb.wav,y, with comma\n",
            r"captions\.csv:3: 3 fields, but the header has 2; put a text that has a comma in double quotes",
        ),
        ("a.wav\n", r"captions\.csv:2: fewer fields than the header, which has 2: path, caption"),
    ],
)
def test_a_row_of_another_length_than_the_header_is_refused_with_its_line(folder, rows, message):
    (folder / "captions.csv").write_text(f"path,caption\n{rows}")
    with pytest.raises(DataError, match=message):
        Captions(folder)


def test_a_quoted_comma_is_a_part_of_the_caption(folder):
    (folder / "captions.csv").write_text(f'path,caption\n{KICK},"x, with comma"\n')
    assert captions_of(folder) == {"prompt": "x, with comma"}


# ---- sidecar files -----------------------------------------------------------------------------------------------------------------


def test_sidecars_belong_to_the_name_without_its_last_suffix(folder):
    (folder / "drums/kick.v2.wav").touch()
    (folder / "drums/kick.v2.txt").write_text("\ufeffsecond take", encoding="utf-8")
    assert captions_of(folder, "drums/kick.v2.wav") == {"prompt": "second take"}
    assert captions_of(folder) == {}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("kick.json", b'{"prompt": "a",\n "b" 1}', r"kick\.json:2:6  not valid JSON: Expecting ':' delimiter"),
        ("kick.json", b"[1, 2]", r"kick\.json: a metadata file holds an object, got list"),
        ("kick.json", b'{"prompt": "caf\xe9"}', r"kick\.json: cannot be read as UTF-8 text: .*0xe9"),
        ("kick.json", b'{"prompt": null}', r"kick\.json: prompt: a caption is a text, got None"),
        ("kick.json", b'{"caption": ["a", "b"]}', r"kick\.json: prompt: a caption is a text, got \['a', 'b'\]"),
        ("kick.json", b'{"__reject__": true}', r"kick\.json: '__reject__' is for the result of a custom_metadata_module; leave it out"),
        ("kick.json", b'{"__audio__": {"a": 1}}', r"kick\.json: '__audio__' is for the result of a custom_metadata_module"),
        ("kick.txt", b"caf\xe9", r"kick\.txt: cannot be read as UTF-8 text: .*0xe9"),
    ],
)
def test_a_broken_sidecar_is_named(folder, name, content, message):
    (folder / "drums" / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        captions_of(folder)


def test_columns_of_a_table_cannot_give_instructions(folder):
    (folder / "captions.csv").write_text(f"path,caption,__reject__\n{KICK},x,false\n")
    with pytest.raises(DataError, match=r"captions\.csv: '__reject__' is for the result of a custom_metadata_module"):
        Captions(folder)


# ---- what is odd about a folder ------------------------------------------------------------------------------------------------


def test_a_broken_sidecar_is_found_before_any_item_is_read(folder):
    (folder / "drums/kick.json").write_text("{")
    with pytest.raises(DataError, match=r"kick\.json:1:2  not valid JSON"):
        Captions(folder).select([KICK])


def test_rows_about_files_that_a_list_leaves_out_are_not_odd(folder, caplog):
    (folder / "other.wav").touch()
    (folder / "captions.csv").write_text("path,caption\nother.wav,x\ndrums/kick.wav,x\n")
    assert Captions(folder).select(["other.wav"]) == ["other.wav"]
    assert "ignored" not in caplog.text


def test_rows_about_absent_files_are_counted_and_named(folder, caplog):
    (folder / "captions.csv").write_text(f"path,caption\n{KICK},kick\n" + "".join(f"no{n}.wav,x\n" for n in range(4)))
    assert Captions(folder).select([KICK]) == [KICK]
    assert f"captions.csv: ignored 4 of 5 rows (no0.wav, no1.wav, no2.wav, ...), which are no audio files in {folder}" in caplog.text


@pytest.mark.parametrize("source", ["captions.csv", "drums/kick.txt", "drums/kick.json", None])
def test_empty_captions_are_counted_and_named(folder, caplog, source):
    if source is not None:
        text = {".csv": f"path,caption\n{KICK},\n", ".txt": "\n", ".json": '{"caption": ""}'}[Path(source).suffix]
        (folder / source).write_text(text)
    captions = Captions(folder, caption="" if source is None else None)
    assert captions.select([KICK]) == [KICK]
    assert captions(folder / KICK)["prompt"] == ""
    assert f"{folder}: 1 of 1 files (drums/kick.wav) have an empty caption, and are trained on with it" in caplog.text


@pytest.mark.parametrize("source", ["captions.csv", "drums/kick.json"])
def test_values_that_the_dataset_measures_are_named(folder, caplog, source):
    text = f"path,caption,seconds_total\n{KICK},x,9\n" if source == "captions.csv" else '{"prompt": "x", "seconds_total": 9}'
    (folder / source).write_text(text)
    captions = Captions(folder)
    captions.select([KICK])
    assert "ignored seconds_total in the metadata beside the audio, since the dataset measures it" in caplog.text
    assert captions(folder / KICK) == {"prompt": "x"}


def test_nothing_odd_is_said_of_a_good_folder(folder, caplog):
    (folder / "captions.csv").write_text(f"path,caption\n{KICK},x\n")
    Captions(folder).select([KICK])
    assert caplog.text == ""


# ---- modules -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def write_module(tmp_path):
    def write(body):
        path = tmp_path / "metadata.py"
        path.write_text(body)
        return path

    return write


def test_a_module_sees_what_is_known_and_the_audio(write_module):
    module = MetadataModule(
        write_module("def get_custom_metadata(info, audio):\n    return {'prompt': info['relpath'], 'n': audio.shape[-1]}")
    )
    assert module({"relpath": "a.wav"}, torch.zeros(1, 7)) == {"prompt": "a.wav", "n": 7}


def test_a_module_that_returns_nothing_adds_nothing(write_module):
    assert MetadataModule(write_module("def get_custom_metadata(info, audio):\n    pass"))({}, None) == {}


def test_a_module_is_run_once_and_only_when_it_is_needed(write_module, tmp_path):
    log = tmp_path / "log"
    module = MetadataModule(
        write_module(f"with open({str(log)!r}, 'a') as f: f.write('x')\ndef get_custom_metadata(info, audio):\n    return {{}}")
    )
    assert not log.exists()
    module({}, None)
    module({}, None)
    assert log.read_text() == "x"


def test_two_modules_of_the_same_name_stay_apart(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "md.py").write_text(f"def get_custom_metadata(info, audio):\n    return {{'prompt': {name!r}}}")
    modules = [MetadataModule(tmp_path / name / "md.py") for name in "ab"]
    assert [module({}, None)["prompt"] for module in modules] == ["a", "b"]
    assert [module({}, None)["prompt"] for module in modules] == ["a", "b"]


def test_a_module_that_was_used_can_be_sent_to_another_process(write_module):
    module = MetadataModule(write_module("def get_custom_metadata(info, audio):\n    return {'prompt': 'p'}"))
    module({}, None)
    assert pickle.loads(pickle.dumps(module))({}, None) == {"prompt": "p"}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_module_works_in_worker_processes(write_module, method):
    module = MetadataModule(
        write_module("import os\ndef get_custom_metadata(info, audio):\n    return {'prompt': info['x'], 'pid': os.getpid()}")
    )
    with multiprocessing.get_context(method).Pool(1) as pool:
        result = pool.apply(module, ({"x": "there"}, None))
    assert result["prompt"] == "there"
    assert result["pid"] != multiprocessing.current_process().pid


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("x = 1", r"metadata\.py: must define get_custom_metadata\(info, audio\)"),
        ("get_custom_metadata = 3", r"must define get_custom_metadata"),
        ("import no_such_package", r"metadata\.py: ModuleNotFoundError: No module named 'no_such_package'"),
        ("def get_custom_metadata(info, audio)\n", r"metadata\.py: SyntaxError: "),
    ],
)
def test_a_module_that_cannot_be_used_is_named(write_module, body, message):
    with pytest.raises(ConfigError, match=message):
        MetadataModule(write_module(body))({}, None)


def test_a_module_that_is_no_python_file_is_refused_at_once(tmp_path):
    (tmp_path / "md.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"custom_metadata_module: .*md\.json: is no Python file; its name must end in \.py"):
        MetadataModule(tmp_path / "md.json")


def test_a_missing_module_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match=r"custom_metadata_module: .*nowhere\.py: no such file"):
        MetadataModule(tmp_path / "nowhere.py")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return ['a']", r"metadata\.py: get_custom_metadata must return a dictionary, got list for song\.wav"),
        ("return info['bpm']", r"metadata\.py: get_custom_metadata failed for song\.wav: KeyError: 'bpm'"),
        ("return audio.no_such_thing()", r"metadata\.py: get_custom_metadata failed for song\.wav: AttributeError: "),
    ],
)
def test_an_error_in_a_module_names_module_and_audio_file(write_module, body, message):
    module = MetadataModule(write_module(f"def get_custom_metadata(info, audio):\n    {body}"))
    with pytest.raises(DataError, match=message):
        module({"path": "song.wav"}, torch.zeros(1, 1))
