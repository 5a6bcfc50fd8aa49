import json
import shutil

import numpy as np
import pytest
import soundfile

from stable_audio_tools.data.file_sets import file_sets
from stable_audio_tools.data.lint import KINDS, Limits, lint
from stable_audio_tools.data.scan import scan
from stable_audio_tools.errors import ConfigError, DataError

pytest.importorskip("pyarrow")

# Every file of the collection of bad audio: what lint finds, besides that it has no caption.
BAD_AUDIO = {
    "flac-test-files/03 - wrong bit depth.flac": set(),
    "flac-test-files/04 - wrong number of channels.flac": set(),
    "flac-test-files/05 - wrong total number of samples.flac": {"header"},
    "flac-test-files/11 - incorrect metadata block length.flac": {"undecodable"},
    "flac-test-files/02 - increasing number of channels.flac": {"undecodable"},
    "flac-test-files/04 - changing bitdepth.flac": {"undecodable"},
    "hound/crash-e5471f5b58397287b509db7d026e95f1724454f5.wav": {"clipped", "short"},
    "hound/oom-48ae4cd061ff8578ad3f23dc87624bd365cf5216.wav": {"undecodable"},
    "hound/nonstandard-01.wav": {"silent", "short"},
    "hound/pcmwaveformat-8bit-44100Hz-mono.wav": {"short"},
    "scipy/test-8000Hz-le-3ch-5S-24bit-inconsistent.wav": {"short"},
    "scipy/test-44100Hz-be-1ch-4bytes.wav": set(),
    "scipy/test-44100Hz-le-1ch-4bytes-rf64.wav": set(),
    "scipy/test-48000Hz-2ch-64bit-float-le-wavex.wav": {"short"},
    "scipy/test-8000Hz-le-3ch-5S-64bit.wav": {"short"},
    "scipy/test-8000Hz-le-5ch-9S-5bit.wav": {"short"},
    "mutagen/emptyfile.mp3": {"undecodable"},
    "mutagen/too-short.mp3": {"undecodable"},
    "mutagen/106-invalid-streaminfo.flac": {"undecodable"},
    "mutagen/52-too-short-block-size.flac": {"header"},
    "mutagen/ooming-header.flac": {"undecodable"},
    "mutagen/8k-4ch-1s-silence.aif": {"silent"},
    "taglib/infloop.wav": {"clipped"},
    "taglib/zero-size-chunk.wav": {"silent", "short"},
    "taglib/garbage.mp3": {"header"},
    "pedalboard/no_header.mp3": set(),
    "pedalboard/adpcm_ms.wav": set(),
    "audiomentations/digital_silence.wav": {"silent"},
    "audiomentations/almost_silent.wav": {"silent"},
    "audiomentations/bus.opus": set(),
    "pydub/test1_empty.wav": {"undecodable"},
    "lyra/sample1_8kHz.wav": set(),
    "flac-test-files/41 - 6 channels (5.1).flac": set(),
    "flac-test-files/43 - 8 channels (7.1).flac": set(),
    "flac-test-files/23 - 8 bit per sample.flac": set(),
    "derived/float32_with_nan_and_inf.wav": {"undecodable"},
    "derived/float32_peak_8x_full_scale.wav": {"clipped"},
    "derived/flac_named.wav": {"mislabelled"},
    "derived/truncated_half.flac": {"header"},
    "derived/html_error_page.mp3": {"undecodable"},
}


@pytest.fixture
def folder(write_noises, tmp_path):
    folder = tmp_path / "audio"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        soundfile.write(folder / f"{index}.wav", 0.1 * rng.standard_normal(4000), 8000)
    (folder / "captions.csv").write_text("path,caption\n" + "".join(f"{index}.wav,number {index}\n" for index in range(4)))
    return folder


def kinds_of(found, folder):
    kinds = {}
    for finding in found:
        kinds.setdefault(finding.path.relative_to(folder).as_posix(), set()).add(finding.kind)
    return kinds


def test_every_bad_file_is_found_out(shared):
    folder = shared / "data/bad-audio"
    found = lint(file_sets(folder))
    kinds = kinds_of(found, folder)
    assert set(kinds) == set(BAD_AUDIO), "all lack a caption"
    assert {name: kinds[name] - {"no_caption"} for name in BAD_AUDIO} == BAD_AUDIO
    assert [list(KINDS).index(finding.kind) for finding in found] == sorted(list(KINDS).index(finding.kind) for finding in found)


def test_a_good_folder_has_no_findings(folder):
    assert lint(file_sets(folder)) == []
    assert not (folder / "manifest.parquet").exists(), "nothing is written"


def test_limits_are_settings(folder):
    soundfile.write(folder / "half.wav", np.r_[0.5 * np.ones(2400), np.zeros(5600)], 8000)
    (folder / "half.txt").write_text("half")
    sets = file_sets(folder)
    assert kinds_of(lint(sets), folder) == {"half.wav": {"mostly_silent"}}
    assert lint(sets, limits=Limits(max_silence_share=0.7)) == []
    assert kinds_of(lint(sets, limits=Limits(min_seconds=0.6, max_silence_share=1)), folder) == {f"{i}.wav": {"short"} for i in range(4)}
    (finding,) = lint(sets, limits=Limits(max_seconds=0.9, max_silence_share=1))
    assert (finding.kind, finding.detail) == ("long", "1 s")


def test_duplicates_name_the_one_they_repeat(folder):
    (folder / "sub").mkdir()
    shutil.copy(folder / "1.wav", folder / "sub" / "copy.wav")
    (folder / "sub" / "copy.txt").write_text("copy")
    (finding,) = lint(file_sets(folder))
    assert finding == ("duplicate", folder / "sub" / "copy.wav", f"the same as {folder}/1.wav")
    assert not finding.is_error


def test_validation_must_share_nothing_with_training(folder, tmp_path):
    other = tmp_path / "val"
    other.mkdir()
    shutil.copy(folder / "2.wav", other / "renamed.wav")
    (other / "renamed.txt").write_text("two")
    (finding,) = lint(file_sets(folder), file_sets(other))
    assert finding == ("overlap", other / "renamed.wav", f"the same as {folder}/2.wav") and finding.is_error
    same = [finding for finding in lint(file_sets(folder), file_sets(folder)) if finding.kind == "overlap"]
    assert len(same) == 4 and {finding.detail for finding in same} == {""}


def test_metadata_that_cannot_be_read_is_an_error(folder):
    (folder / "0.json").write_text("{")
    (finding,) = lint(file_sets(folder))
    assert finding.kind == "metadata" and "0.json:1:2  not valid JSON" in finding.detail


def test_files_that_changed_since_the_manifest_are_looked_at_anew(folder):
    scan(folder)
    soundfile.write(folder / "3.wav", np.zeros(5000), 8000)
    shutil.copy(folder / "0.wav", folder / "new.wav")
    assert kinds_of(lint(file_sets(folder)), folder) == {"3.wav": {"silent"}, "new.wav": {"duplicate", "no_caption"}}


def test_a_config_stands_for_the_files_it_uses(folder, tmp_path):
    (folder / "bad.wav").write_bytes(b"<html>")
    (tmp_path / "out.txt").write_text("bad\n")
    (tmp_path / "list.txt").write_text("2.wav\n3.wav\n")

    def config(name, **entry):
        data = {"dataset_type": "audio_dir", "exclude_paths_file": "out.txt", "datasets": [{"id": "x", "path": "audio", **entry}]}
        (tmp_path / name).write_text(json.dumps(data))
        return tmp_path / name

    (everything,) = file_sets(config("a.json"))
    assert [row["path"] for row in everything.rows] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    (some,) = file_sets(config("b.json", filelist_path="list.txt"))
    assert [row["path"] for row in some.rows] == ["2.wav", "3.wav"]
    assert {finding.kind for finding in lint([everything], [some])} == {"overlap"}


def test_configs_of_crops_are_looked_at_and_others_are_not(folder, tmp_path):
    (tmp_path / "c.json").write_text(json.dumps({"dataset_type": "audio_crops", "datasets": [{"id": "x", "path": str(folder)}]}))
    assert len(file_sets(tmp_path / "c.json")[0].rows) == 4
    (tmp_path / "w.json").write_text(json.dumps({"dataset_type": "wds", "datasets": [{"id": "x", "path": str(folder)}]}))
    with pytest.raises(DataError, match=r"w\.json: is a dataset of type 'wds'; only files of audio_dir and audio_crops can be looked at"):
        file_sets(tmp_path / "w.json")


def test_what_cannot_be_looked_at_is_refused(tmp_path):
    (tmp_path / "c.json").write_text('{"dataset_type": "audio_dir"}')
    with pytest.raises(ConfigError, match=r"datasets: required key is missing"):
        file_sets(tmp_path / "c.json")
    with pytest.raises(DataError, match=r"holds no audio files"):
        file_sets(tmp_path)
