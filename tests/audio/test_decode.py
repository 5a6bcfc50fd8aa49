import json
import subprocess
import sys
from pathlib import Path

import pytest

from stable_audio_tools.audio import load
from stable_audio_tools.errors import AudioError

# (channels, frames, Hz), or what the AudioError says after the name of the file.
NOT_AUDIO = r"is not audio that can be decoded \(.*\); expected WAV, FLAC, OGG, MP3, M4A or another common format"
BAD_AUDIO = {
    "flac-test-files/03 - wrong bit depth.flac": (1, 89903, 24000),
    "flac-test-files/04 - wrong number of channels.flac": (1, 97391, 24000),  # mono; only the header says 5 channels
    "flac-test-files/05 - wrong total number of samples.flac": r"header promises 39842 frames, the file holds more than that; download",
    "flac-test-files/11 - incorrect metadata block length.flac": r"holds no audio frame that can be decoded, expected at least one;",
    "flac-test-files/02 - increasing number of channels.flac": r"changes from 1 channel at 44100 Hz to 2 at 44100 Hz after 147456 frames, "
    r"expected one kind throughout; split or re-encode it",
    "flac-test-files/04 - changing bitdepth.flac": r"holds damaged data after 139264 frames \(.*\); download",
    "hound/crash-e5471f5b58397287b509db7d026e95f1724454f5.wav": (1, 4, 44100),
    "hound/oom-48ae4cd061ff8578ad3f23dc87624bd365cf5216.wav": NOT_AUDIO,
    "hound/nonstandard-01.wav": (2, 1, 48000),
    "hound/pcmwaveformat-8bit-44100Hz-mono.wav": (1, 4, 44100),
    "scipy/test-8000Hz-le-3ch-5S-24bit-inconsistent.wav": (3, 5, 8000),
    "scipy/test-44100Hz-be-1ch-4bytes.wav": (1, 4410, 44100),
    "scipy/test-44100Hz-le-1ch-4bytes-rf64.wav": (1, 4410, 44100),
    "scipy/test-48000Hz-2ch-64bit-float-le-wavex.wav": (2, 480, 48000),
    "scipy/test-8000Hz-le-3ch-5S-64bit.wav": (3, 5, 8000),
    "scipy/test-8000Hz-le-5ch-9S-5bit.wav": (5, 9, 8000),
    "mutagen/emptyfile.mp3": NOT_AUDIO,
    "mutagen/too-short.mp3": NOT_AUDIO,
    "mutagen/106-invalid-streaminfo.flac": NOT_AUDIO,
    "mutagen/52-too-short-block-size.flac": r"header promises 8943480 frames, the file holds 0 before damaged data \(.*\); download",
    "mutagen/ooming-header.flac": NOT_AUDIO,
    "mutagen/8k-4ch-1s-silence.aif": (4, 8000, 8000),
    "taglib/infloop.wav": (1, 14083, 11025),
    "taglib/zero-size-chunk.wav": (2, 245, 44100),
    "taglib/garbage.mp3": r"header promises 83223936 frames, the file holds 21888; download",
    "pedalboard/no_header.mp3": (1, 43776, 44100),
    "pedalboard/adpcm_ms.wav": (1, 44792, 44100),
    "audiomentations/digital_silence.wav": (1, 29976, 48000),
    "audiomentations/almost_silent.wav": (1, 29976, 48000),
    "audiomentations/bus.opus": (1, 36682, 48000),
    "pydub/test1_empty.wav": r"holds 0 frames of audio, expected at least 1; download",
    "lyra/sample1_8kHz.wav": (1, 27589, 8000),
    "flac-test-files/41 - 6 channels (5.1).flac": (6, 357223, 44100),
    "flac-test-files/43 - 8 channels (7.1).flac": (8, 438530, 44100),
    "flac-test-files/23 - 8 bit per sample.flac": (2, 339973, 44100),
    "derived/float32_with_nan_and_inf.wav": r"holds NaN or Inf, first at frame 100, expected finite samples; download",
    "derived/float32_peak_8x_full_scale.wav": (1, 15430, 44100),
    "derived/flac_named.wav": (1, 15430, 44100),
    "derived/truncated_half.flac": r"header promises 69305 frames, the file holds 24576 before damaged data \(.*\); download",
    "derived/html_error_page.mp3": NOT_AUDIO,
}

BEFORE_FFMPEG_8 = {"flac-test-files/11 - incorrect metadata block length.flac": (1, 64559, 24000)}

# Loads and probes each file under an address-space limit (torch alone maps about 2 GB), and writes one JSON line per file.
CHILD = """
import json, resource, sys, time
from pathlib import Path
from stable_audio_tools.audio import load, probe
from stable_audio_tools.errors import AudioError

resource.setrlimit(resource.RLIMIT_AS, (5 << 30, 5 << 30))
load(sys.argv[2])  # imports everything, so that only decoding is measured
resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in json.load(sys.stdin):
    outcome, begin = {}, time.perf_counter()
    for read in (load, probe):
        try:
            result = read(str(Path(sys.argv[1]) / name))
            outcome[read.__name__] = (
                [result.num_channels, result.num_frames, result.sample_rate] if read is probe
                else [*result.samples.shape, result.sample_rate, float(result.samples.abs().max())]
            )
        except AudioError as error:
            outcome[read.__name__] = str(error)
    seconds = time.perf_counter() - begin
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - resident) * 1024
    print(json.dumps({"name": name, "seconds": seconds, "growth": growth, **outcome}))
"""


@pytest.fixture(scope="module")
def outcomes(shared, encoded):
    pytest.importorskip("resource", reason="memory limits need a POSIX system")
    folder = shared / "data/bad-audio"
    command = [sys.executable, "-c", CHILD, str(folder), str(encoded["aac.m4a"])]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, input=json.dumps(list(BAD_AUDIO)), capture_output=True, text=True, timeout=120, cwd=root)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no chatter of native libraries either
    return {line["name"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_every_bad_file_is_in_the_table(shared):
    on_disk = {str(path.relative_to(shared / "data/bad-audio")) for path in (shared / "data/bad-audio").rglob("*.*")}
    assert on_disk - {"index.csv"} == set(BAD_AUDIO)


@pytest.mark.parametrize("name", BAD_AUDIO)
def test_bad_audio_decodes_or_says_why_not(outcomes, name):
    expected, outcome = BAD_AUDIO[name], outcomes[name]
    if name in BEFORE_FFMPEG_8 and not isinstance(outcome["load"], str):
        expected = BEFORE_FFMPEG_8[name]
    if isinstance(expected, tuple):
        assert tuple(outcome["load"][:3]) == expected
        assert outcome["load"][3] < 2e4  # finite
        assert tuple(outcome["probe"]) == expected
    else:
        assert outcome["load"].count(name) == 1
        with pytest.raises(AudioError, match=expected):
            raise AudioError(outcome["load"])
        is_seen_by_probe = "NaN" not in expected
        assert isinstance(outcome["probe"], str) == is_seen_by_probe
    assert outcome["seconds"] < 5


def test_bad_audio_takes_little_memory(outcomes):
    assert max(line["growth"] for line in outcomes.values()) < 200e6  # the largest holds 14 MB of samples


def test_peaks_above_full_scale_decode_unchanged(outcomes):
    assert outcomes["derived/float32_peak_8x_full_scale.wav"]["load"][3] == pytest.approx(8)


@pytest.mark.parametrize("name", ["cbr.mp3", "aac.m4a", "pcm24.flac", "music.opus"])
def test_the_content_decides_not_the_name(encoded, tmp_path, name):
    renamed = tmp_path / "x.wav"
    renamed.write_bytes(encoded[name].read_bytes())
    assert load(renamed).samples.equal(load(encoded[name]).samples)


@pytest.mark.parametrize("name", ["concat:a|b.mp3", "per%03d.mp3", "caf\u00e9 \u97f3 #?.mp3", "-i.mp3"])
def test_odd_names_are_only_names(encoded, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(encoded["low.mp3"].read_bytes())
    assert load(name, num_frames=100).samples.shape == (1, 100)


def test_a_missing_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(AudioError, match=r"no\.wav: cannot be opened: No such file.*; expected an audio file that may be read"):
        load(tmp_path / "no.wav")
    with pytest.raises(AudioError, match=r"cannot be opened: .*; expected an audio file that may be read"):
        load(tmp_path)
