"""Pre-encoding that is killed, goes on, is split over processes, or must not go on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from stable_audio_tools.errors import DataError
from stable_audio_tools.preencode.card import begin_card
from stable_audio_tools.preencode.machines import Place
from tests.preencode.conftest import contents

ROOT = Path(__file__).resolve().parents[2]


def journal(folder, rank=0):
    return [json.loads(line) for line in (folder / str(rank) / "journal.jsonl").read_text().splitlines()]


# ---- killed at any moment -----------------------------------------------------------------------------------------------------------

KILLED_BY_ITSELF = """
import os, random, signal, sys, threading
from stable_audio_tools.preencode.run import PreEncodeOptions, pre_encode
import json
options = json.loads(sys.argv[1])
# A file operation that is drawn, rather than a time: every moment at which something is half-done has its turn on any machine.
left = int(sys.argv[2])
def count(event, arguments):
    global left
    if event in ("open", "os.rename", "os.chmod", "os.remove", "tempfile.mkstemp", "os.mkdir", "os.listdir") and options["output_path"] in str(arguments[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
pre_encode(PreEncodeOptions(**options))
"""  # noqa: E501


def killed(options, operations):
    """Run in a process that kills itself at its so-manieth operation on a file of the store; whether it got that far."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BY_ITSELF, json.dumps(options, default=str), str(operations)],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def kill_and_go_on(encode, vae, data, folder, moments, **options):
    """The store after kills at these moments, each followed by another run, as a dictionary; checks that nothing is written twice."""
    settings = {"dataset_config": data, "sample_size": 4096, "batch_size": 2, "num_workers": 0, "shard_size": 4, "device": "cpu"}
    settings |= {**vae.options, "output_path": folder, **options}
    written: dict[Path, int] = {}
    kills = 0
    for moment in moments:
        kills += killed(settings, moment)
        items = [path for path in folder.glob("[0-9]*/*.*") if not path.name.startswith(".") and path.suffix in (".npy", ".json", ".tar")]
        now = {path: path.stat().st_mtime_ns for path in items}
        assert written.items() <= now.items(), "written again"
        written = now
    result = encode(folder, **options)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in written.items()), "written again"
    assert result.is_complete
    items = [entry["item"] for entry in journal(folder) if "item" in entry]
    assert sorted(items) == sorted(set(items)), "said twice"
    return contents(folder), kills


@pytest.mark.parametrize("kind", ["npy", "wds"])
def test_killed_and_resumed_is_as_if_never_killed(encode, vae, data, tmp_path, kind):
    expected = contents(encode("whole", format=kind).folder)
    draw = random.Random(kind)
    moments = [draw.randint(4, 20), draw.randint(10, 30)] + ([draw.randint(10, 40)] if kind == "npy" else [])
    found, kills = kill_and_go_on(encode, vae, data, tmp_path / "killed", moments, format=kind)
    assert found == expected and kills >= 2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["npy", "safetensors", "wds"])
def test_killed_twenty_times_and_resumed(encode, vae, data, tmp_path, kind):
    expected = contents(encode("whole", format=kind).folder)
    draw = random.Random(f"{kind}/20")
    found, kills = kill_and_go_on(encode, vae, data, tmp_path / "killed", [draw.randint(1, 24) for _ in range(20)], format=kind)
    assert found == expected and kills >= 5


@pytest.mark.slow
def test_killed_twenty_times_from_outside_at_random_times(encode, vae, data, tmp_path, write_noises):
    """With workers and the command line, at times that are drawn."""
    folder = write_noises(tmp_path / "audio", 120)
    config = {**data, "datasets": [{"id": "a", "path": str(folder)}]}
    (tmp_path / "data.json").write_text(json.dumps(config))
    expected = contents(encode("whole", dataset_config=config, batch_size=1).folder)
    command = [
        sys.executable, str(ROOT / "pre_encode.py"), "--model-config", str(vae.config_path), "--ckpt-path", str(vae.weights),
        "--dataset-config", str(tmp_path / "data.json"), "--output-path", str(tmp_path / "killed"), "--sample-size", "4096",
        "--shard-size", "4", "--num-workers", "1", "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    draw, kills = random.Random(0), 0
    for _ in range(20):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        before = len(list((tmp_path / "killed").glob("0/*.npy")))
        deadline = time.monotonic() + 60
        while process.poll() is None and len(list((tmp_path / "killed").glob("0/*.npy"))) == before and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.05))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.communicate()
    assert subprocess.run(command, env=environment, check=False, capture_output=True).returncode == 0
    found = contents(tmp_path / "killed")
    names = [name for name in expected if name not in ("card.json", "README.md")]
    assert {name: found[name] for name in names} == {name: expected[name] for name in names} and set(found) == set(expected)
    assert kills >= 10


def test_a_run_that_is_done_writes_nothing(encode):
    folder = encode().folder
    before = {path: path.stat().st_mtime_ns for path in folder.glob("0/*")}
    again = encode()
    assert (again.written, again.summary) == (0, f"10 of 10 items are in {folder}, 0 of them new")
    assert before == {path: path.stat().st_mtime_ns for path in folder.glob("0/*")}


def test_half_a_line_and_half_a_file_do_not_count(encode):
    whole = contents(encode("whole").folder)
    folder = encode("torn").folder
    text = (folder / "0" / "journal.jsonl").read_text()
    (folder / "0" / "journal.jsonl").write_text(text[: text.rindex('"frames"')])
    (folder / "0" / ".0000000010000.npy.abc.tmp").write_bytes(b"half")
    (folder / ".card.json.abc.tmp").write_bytes(b"half")
    (folder / "0" / "0000000000001.json").unlink()
    entries = [line for line in text.splitlines() if '"0000000001"' not in line]
    (folder / "0" / "journal.jsonl").write_text("\n".join(entries) + "\n" + '{"item": "00000')
    assert encode("torn").written == 1
    assert contents(folder) == whole
    assert (
        sorted(entry["item"] for entry in journal(folder)) == [f"{group:06d}{place:04d}" for group in range(3) for place in range(4)][:10]
    )


# ---- several processes --------------------------------------------------------------------------------------------------------------


def test_two_processes_share_the_work(encode):
    one = encode("one").folder
    results = [encode("two", Place(rank, 2, rank)) for rank in range(2)]
    folder = results[0].folder
    assert [result.written for result in results] == [6, 4] and [result.is_complete for result in results] == [False, True]
    items = [{entry["item"] for entry in journal(folder, rank)} for rank in range(2)]
    assert not items[0] & items[1] and len(items[0] | items[1]) == 10
    by_item = {path.stem[3:] + path.suffix: path.read_bytes() for path in folder.glob("[0-9]/0*.*")}
    assert by_item == {path.stem[3:] + path.suffix: path.read_bytes() for path in one.glob("0/0*.*")}, "the same whoever does it"
    assert json.loads((folder / "card.json").read_text())["complete"]


def test_work_begun_by_one_goes_on_with_three(encode):
    folder = encode(limit_batches=2).folder
    before = {path: path.stat().st_mtime_ns for path in folder.glob("0/0*")}
    assert sum(encode(place=Place(rank, 3)).written for rank in range(3)) == 6
    assert before.items() <= {path: path.stat().st_mtime_ns for path in folder.glob("0/0*")}.items()
    names = [path.stem[3:] for path in folder.glob("[0-9]/*.npy")]
    assert len(names) == len(set(names)) == 10


def test_two_real_processes_are_started_by_the_command(vae, data, tmp_path):
    (tmp_path / "data.json").write_text(json.dumps(data))
    command = [
        sys.executable, str(ROOT / "pre_encode.py"), "--model-config", str(vae.config_path), "--ckpt-path", str(vae.weights),
        "--dataset-config", str(tmp_path / "data.json"), "--output-path", str(tmp_path / "out"), "--sample-size", "4096",
        "--batch-size", "2", "--shard-size", "2", "--num-workers", "0", "--device", "cpu", "--devices", "2", "--strategy", "ddp",
    ]  # fmt: skip
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    items = [{entry["item"] for entry in journal(tmp_path / "out", rank)} for rank in range(2)]
    assert [len(found) for found in items] == [6, 4] and not items[0] & items[1]
    assert "warning: --strategy ddp has no effect" in done.stderr


# ---- what must not go on ------------------------------------------------------------------------------------------------------------


def test_another_model_is_refused(encode, write_model, tiny_autoencoder):
    encode()
    config = tiny_autoencoder()
    config["model"]["encoder"]["config"]["use_snake"] = True
    with pytest.raises(DataError, match=r"out: was begun with another model \(model\.safetensors [0-9a-f]{16}, now model\.safetensors"):
        encode(**write_model(config).options)


def test_another_dataset_is_refused(encode, data, tmp_path, write_noises):
    encode()
    folder = write_noises(tmp_path / "more", 3)
    with pytest.raises(DataError, match=r"another dataset \(dataset config [0-9a-f]+ 10, now dataset config [0-9a-f]+ 3\); items of both"):
        encode(dataset_config={**data, "datasets": [{"id": "a", "path": str(folder)}]})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"store": "mean"}, r'--store or --is-discrete \("sample", now "mean"\)'),
        ({"dtype": "fp16"}, r'--dtype or --model-half \("fp32", now "fp16"\)'),
        ({"sample_size": 2048}, r"--sample-size \(4096, now 2048\)"),
        ({"pad": False, "seed": 3}, r"--pad \(true, now false\), --seed \(0, now 3\)"),
    ],
)
def test_other_options_are_refused(encode, options, told):
    encode()
    with pytest.raises(DataError, match=rf"was begun with another {told}.*; items of both would be mixed: give another --output-path, or"):
        encode(**options)


def test_another_batch_size_may_go_on(encode):
    encode(limit_batches=1)
    assert encode(batch_size=3, shard_size=7).written == 8


def test_a_first_process_that_never_comes(tmp_path, monkeypatch):
    monkeypatch.setattr("stable_audio_tools.preencode.card.PATIENCE", 0.1)
    with pytest.raises(DataError, match=r"card\.json: the first process did not write it in 0 s; did it stop\?$"):
        begin_card(tmp_path, {}, is_first=False)


def test_an_edited_journal_is_told(encode):
    folder = encode().folder
    with (folder / "0" / "journal.jsonl").open("a") as file:
        file.write("odd\n")
    with pytest.raises(DataError, match=r"journal\.jsonl:11: not valid JSON; was it edited\?$"):
        encode()
