"""The whole demo on a user's folder, in seconds: what it writes, that it goes on where it was stopped, and what it refuses."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch

from stable_audio_tools.audio import load, probe, read_metadata
from stable_audio_tools.checkpoint import load_ckpt_state_dict, weights_hash
from stable_audio_tools.config.check import check_model_config
from stable_audio_tools.demo import listen
from stable_audio_tools.demo import run as run_module
from stable_audio_tools.demo.folder import DemoSettings
from stable_audio_tools.demo.run import run_demo, summary
from stable_audio_tools.demo.synth import SAMPLE_RATE
from stable_audio_tools.demo.training import TimeLimit
from stable_audio_tools.errors import ConfigError

CLASSES = "kick|bass drum,bell,hat|hi-hat"
NAMES = ["kick", "bell", "hat"]


@pytest.fixture(scope="module", autouse=True)
def quick() -> Any:
    """Few sampler steps, and float32 whatever this processor is good at, so that results can be compared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listen, "SAMPLER_STEPS", 3)
        patch.setattr(run_module, "has_fast_bfloat16", lambda: False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_folder: Any) -> Path:
    return write_folder(tmp_path_factory.mktemp("sounds"))


def settings(output: Path, folder: Path | None, **changes: Any) -> DemoSettings:
    options: dict[str, Any] = {"classes": CLASSES, "minutes": 5, "max_steps": 6, "batch_size": 4, "clips_per_class": 2}
    return DemoSettings(output=output, audio_dir=folder, **(options | changes))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> tuple[Path, Any, list[str]]:
    """A finished demo: its folder, its measurements, and what it said."""
    output, said = tmp_path_factory.mktemp("demo") / "out", []
    return output, run_demo(settings(output, folder), say=said.append), said


def test_it_says_what_it_does_and_what_to_type_next(done: Any, folder: Path) -> None:
    output, _, said = done
    assert said[0].startswith(f"This trains a small text-to-audio model on your sounds in {folder}, ")
    assert [line for line in said if re.match(r"\n?\d\. ", line)] == [
        "\n1. sounds", "2. latents", "3. training", "4. generating 2 clips for each of 3 classes", "5. measuring",
    ]  # fmt: skip
    assert f"   24 files of 3 classes from {folder}" in said
    following = said[said.index("Next:") + 1]
    assert following == (
        f"  sat generate --model-config {output}/model_config.json --ckpt-path {output}/model.safetensors --prompt 'a short kick' -n 4"
    )


def test_everything_is_there(done: Any) -> None:
    output, evaluation, _ = done
    for name in ("index.html", "model.safetensors", "model_config.json", "clips.json", "evaluation.json", "loss.png", "settings.json"):
        assert (output / name).stat().st_size > 0
    assert json.loads((output / "evaluation.json").read_text()) == evaluation.as_dict()
    assert check_model_config(json.loads((output / "model_config.json").read_text())) == []
    assert (evaluation.classes, evaluation.num_per_class, evaluation.chance) == (NAMES, 2, pytest.approx(1 / 3))
    assert evaluation.classifier_accuracy >= 0.8
    assert sum(map(sum, evaluation.answers)) == 6


def test_generated_clips_say_how_they_were_made(done: Any) -> None:
    output, _, _ = done
    prompts = set()
    for name in NAMES:
        for index in range(2):
            path = output / "generated" / name / f"{name}_{index}.wav"
            assert probe(path).sample_rate == SAMPLE_RATE
            told = read_metadata(path)
            assert name in told["prompt"]
            assert (told["seed"], told["steps"]) == ("1000", "3")
            assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
            prompts.add(told["prompt"])
    captions = {text for clip in json.loads((output / "clips.json").read_text())["clips"] for text in clip["captions"]}
    assert len(prompts) == 6
    assert not prompts & captions  # worded as training never was


def test_the_curve_is_in_a_table(done: Any) -> None:
    output, _, _ = done
    with (output / "training" / "metrics" / "metrics.csv").open(newline="") as stream:
        losses = [float(row["train/loss"]) for row in csv.DictReader(stream) if row["train/loss"]]
    assert len(losses) == 6
    assert all(0 < loss < 100 for loss in losses)


def test_the_page_shows_all_clips_and_its_links_lead_to_them(done: Any) -> None:
    output, evaluation, _ = done
    text = (output / "index.html").read_text(encoding="utf-8")
    links = [unquote(link) for link in re.findall(r'src="([^"]*)"', text)]
    assert [link for link in links if not (output / link).is_file()] == []
    assert set(links) >= {f"generated/{name}/{name}_{index}.wav" for name in NAMES for index in range(2)}
    assert sum(link.startswith("examples/") and link.endswith(".wav") for link in links) == 9
    for said in (f"{evaluation.agreement:.0%}", f"{evaluation.classifier_accuracy:.0%}", f"{evaluation.chance:.0%}", *NAMES):
        assert said in text
    assert "take 0" in text  # captions of training examples
    assert text.index("<h2>kick</h2>") < text.index("<h2>bell</h2>") < text.index("<h2>hat</h2>")


def test_the_model_is_one_that_others_can_use(done: Any, tmp_path: Path) -> None:
    from stable_audio_tools.inference.files import GenerationRequest, generate_files

    output, _, _ = done
    request = GenerationRequest(
        model_config=output / "model_config.json", ckpt_path=output / "model.safetensors", prompts=["a bell"], steps=2, output=tmp_path
    )
    (path,) = generate_files(request)
    assert load(path).samples.shape == (1, 32768)


def test_a_second_run_does_nothing_twice(done: Any, folder: Path) -> None:
    output, evaluation, _ = done
    kept = {path: path.stat().st_mtime_ns for path in output.rglob("*") if path.suffix in (".wav", ".png", ".safetensors", ".ckpt")}
    kept.pop(output / "loss.png")
    said: list[str] = []
    again = run_demo(settings(output, folder, minutes=9), say=said.append)
    assert again == evaluation
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not [line for line in said if "latents," in line or line.startswith("   step")]


def test_what_is_lost_is_made_again(done: Any, folder: Path) -> None:
    output, evaluation, _ = done
    clip, picture = output / "generated" / "bell" / "bell_1.wav", output / "examples" / "kick_0.png"
    before = load(clip).samples
    clip.unlink()
    picture.unlink()
    assert run_demo(settings(output, folder), say=lambda line: None) == evaluation
    assert torch.equal(load(clip).samples, before)
    assert picture.is_file()


def test_a_stopped_demo_goes_on_and_ends_as_if_it_had_not_stopped(
    done: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, evaluation, _ = done
    original = TimeLimit.on_train_batch_end

    def stop_at_three(self: Any, trainer: Any, *rest: Any) -> None:
        original(self, trainer, *rest)
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    output, said = tmp_path / "out", []
    with monkeypatch.context() as patch:
        patch.setattr(TimeLimit, "on_train_batch_end", stop_at_three)
        assert run_demo(settings(output, folder), say=said.append) is None
    assert [path.name for path in output.rglob("*.ckpt")] == ["epoch=0-step=3.ckpt"]
    assert not (output / "model.safetensors").exists()

    def interrupt(line: str) -> None:
        if line.startswith("4."):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(settings(output, folder), say=interrupt)
    hashes = [weights_hash(load_ckpt_state_dict(path / "model.safetensors")) for path in (output, finished)]
    assert hashes[0] == hashes[1]
    assert run_demo(settings(output, folder), say=said.append) == evaluation


def test_time_ends_training(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    assert run_demo(settings(tmp_path / "out", folder, minutes=0.001, max_steps=100_000), say=said.append) is not None
    with (tmp_path / "out" / "training" / "metrics" / "metrics.csv").open(newline="") as stream:
        assert len(list(csv.DictReader(stream))) < 1000


def test_a_finished_demo_can_be_trained_longer(folder: Path, tmp_path: Path) -> None:
    """Only by more time than it had, and if steps are left; what it says and what it does agree."""

    def ran(minutes: float) -> tuple[str, str]:
        said: list[str] = []
        assert run_demo(settings(tmp_path, folder, minutes=minutes, max_steps=100_000), say=said.append) is not None
        return "\n".join(said), weights_hash(load_ckpt_state_dict(tmp_path / "model.safetensors"))

    _, first = ran(0.001)
    clip = (tmp_path / "generated" / "bell" / "bell_0.wav").read_bytes()
    said, longer = ran(0.003)
    assert "It trains for at most 0.002 minutes" in said
    assert longer != first
    assert (tmp_path / "generated" / "bell" / "bell_0.wav").read_bytes() != clip
    for minutes in (0.002, 0.003):
        said, same = ran(minutes)
        assert said.startswith(
            f"The model in {tmp_path}/ has had its training; only what is missing is made again (in float32).\nMore --minutes train it"
        )
        assert "It trains for" not in said
        assert same == longer


# ---- folders that are not this demo's ------------------------------------------------------------------------------------------


def test_other_settings_want_another_folder_or_a_fresh_start(done: Any, folder: Path, tmp_path: Path) -> None:
    output, _, _ = done
    with pytest.raises(ConfigError, match="holds a demo with other settings; throw it away with --fresh, or choose another folder"):
        run_demo(settings(output, folder, max_steps=7), say=print)
    assert (output / "model.safetensors").exists()


def test_mistakes_are_told_before_anything_is_written_or_thrown_away(done: Any, folder: Path, tmp_path: Path) -> None:
    output, _, _ = done
    said: list[str] = []
    for target, fresh in ((tmp_path / "new", False), (output, True)):
        with pytest.raises(ConfigError, match="class 'harp' matches 0 of 24 captions, at least 8 are needed; the most common words are "):
            run_demo(settings(target, folder, classes="kick,harp"), say=said.append, fresh=fresh)
    assert said == []
    assert not (tmp_path / "new").exists()
    assert (output / "index.html").exists()


@pytest.mark.parametrize("content", ['{"editor.fontSize": 12}', "[]", "not json", '"fingerprint"'])
def test_folders_of_other_programs_are_left_alone(folder: Path, tmp_path: Path, content: str) -> None:
    """Also with --fresh, and though they have a settings.json too."""
    (tmp_path / "settings.json").write_text(content, encoding="utf-8")
    (tmp_path / "thesis.tex").touch()
    for fresh in (False, True):
        with pytest.raises(ConfigError, match="is not empty and holds no demo; choose another folder with --output"):
            run_demo(settings(tmp_path, folder), say=print, fresh=fresh)
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_is_no_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file: is a file; name a folder with --output"):
        run_demo(settings(tmp_path / "file", folder), say=print)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"audio_dir": Path("nowhere")}, "nowhere: no such folder"),
        ({"captions": Path("nowhere.csv")}, "nowhere.csv: no such file; --captions names a CSV table with the columns path and caption"),
        ({"classes": "kick"}, "one class is nothing to tell apart; name at least two, separated by commas"),
        ({"classes": "kick,kick drum|bell"}, "class 'kick' matches 0 of 24 captions, at least 8 are needed; 8 more match"),
    ],
)  # fmt: skip
def test_wrong_folders_and_classes(folder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    options = {"audio_dir": folder, **changes}
    with pytest.raises(ConfigError, match=re.escape(message)):
        run_demo(settings(tmp_path / "out", options.pop("audio_dir"), **options), say=print)
    assert not (tmp_path / "out").exists()


# ---- small things --------------------------------------------------------------------------------------------------------------


def test_time_limits_do_not_make_another_demo(tmp_path: Path) -> None:
    first = settings(tmp_path, None)
    assert first.fingerprint() == settings(tmp_path / "b", None, minutes=60).fingerprint()
    assert first.fingerprint() != settings(tmp_path, None, seed=1).fingerprint()


def test_the_precision_is_decided_once(done: Any, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by timing, which may come out differently when a stopped demo goes on."""
    output, evaluation, _ = done
    monkeypatch.setattr(run_module, "has_fast_bfloat16", lambda: True)
    said: list[str] = []
    assert run_demo(settings(output, folder), say=said.append) == evaluation
    assert "(in float32)" in said[0]


def test_every_class_has_files_of_its_own() -> None:
    names = ["hi hat", "hi-hat", "\u0442\u0430\u0440\u0435\u043b\u043a\u0430", "\u0431\u0430\u0440\u0430\u0431\u0430\u043d", "kick"]
    found = listen._file_names([*names, "kick"])
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert found["kick"] == "kick"
    assert all(re.fullmatch(r"[a-z0-9-]+", stem) for stem in found.values())


def test_what_to_type_next_survives_a_shell(done: Any) -> None:
    import shlex

    _, evaluation, _ = done
    lines = summary(evaluation, Path("x"), Path("my runs/it's"), 60)
    (command,) = [line for line in lines if "sat generate" in line]
    assert shlex.split(command)[3:6:2] == ["my runs/it's/model_config.json", "my runs/it's/model.safetensors"]
