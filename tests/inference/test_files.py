"""generate_files from Python, names of files, devices, and clips that cannot be written. The flags are tested in tests/cli."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.audio import load, read_metadata
from stable_audio_tools.checkpoint import save_model_weights
from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.inference.files import GenerationRequest, generate_files, pick_device, slug, write_clip
from stable_audio_tools.inference.generation import generate_diffusion_cond


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, dit_config: Any, v_model: Any) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("model")
    (folder / "m.json").write_text(json.dumps(dit_config()), encoding="utf-8")
    return {"model_config": folder / "m.json", "ckpt_path": save_model_weights(v_model.state_dict(), folder / "m.safetensors")}


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("stable_audio_tools"), "propagate", True)
    return caplog


def test_a_file_holds_what_the_function_makes(files: dict[str, Path], v_model: Any, tmp_path: Path) -> None:
    """Cut to the length asked for, after generating whole steps of the model; turned down only if it would clip."""
    request = GenerationRequest(**files, prompts=["rain"], seconds=0.0325, steps=3, cfg_scale=2.0, seed=4, output=tmp_path, device="cpu")
    (path,) = generate_files(request)
    audio = generate_diffusion_cond(
        v_model, 3, 2.0, [{"prompt": "rain", "seconds_total": 0.0325}], sample_size=264, seed=4, disable_tqdm=True
    )[0, :, :260]
    peak = float(audio.abs().max())
    written = load(path).samples
    assert written.shape == (1, 260)
    scale = float(written.abs().max()) / peak if peak > 1 else 1.0
    torch.testing.assert_close(written, audio * scale, atol=2e-4, rtol=0)


def test_files_come_one_by_one(files: dict[str, Path], tmp_path: Path) -> None:
    """So that a long list can be listened to, and stopped, while it is made."""
    request = GenerationRequest(**files, prompts=["a", "b"], seconds=0.03, steps=1, seed=1, output=tmp_path, device="cpu")
    made = generate_files(request)
    assert next(made).name == "a_1.wav"
    assert [path.name for path in tmp_path.iterdir()] == ["a_1.wav"]
    assert [path.name for path in made] == ["b_2.wav"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompts": []}, "nothing to generate: give at least one --prompt"),
        ({"seconds": float("nan")}, "--seconds is a finite number, got nan"),
        ({"seed": -5}, "--seed is at least 0 and below 9223372036854775808, or -1 to draw one, got -5"),
        ({"device": "cuda:99"}, "--device 'cuda:99': not available here"),
        ({"sampler": "euler"}, "sampler 'euler' cannot be used with objective 'v'"),
        ({"conditions": {"bpm": 3}}, "--cond bpm: the model has no such condition; it has: prompt, seconds_total"),
    ],
)
def test_what_it_refuses(files: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {**files, "prompts": ["x"], "output": tmp_path, "device": "cpu"} | change
    with pytest.raises(ConfigError, match=message):
        next(generate_files(GenerationRequest(**options)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "dpmpp-4m"}, "unknown sampler 'dpmpp-4m'"),
        ({"sigma_min": 200.0}, "noise levels go from --sigma-max down to --sigma-min, which is above 0; got 100 and 200"),
        ({"sigma_min": 0.0}, "noise levels go from --sigma-max down to --sigma-min, which is above 0; got 100 and 0"),
        ({"sigma_max": 0.0}, "noise levels go from --sigma-max down to --sigma-min, which is above 0; got 0 and 0.01"),
        ({"conditions": {"seconds_total": "abc"}}, "conditioner 'number': expected a number, got 'abc'"),
    ],
)
def test_mistakes_are_told_before_the_weights_are_read(
    files: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    options: dict[str, Any] = {**files, "ckpt_path": tmp_path / "no.ckpt", "prompts": ["x"], "output": tmp_path, "device": "cpu"} | change
    with pytest.raises((ConfigError, DataError), match=message):
        next(generate_files(GenerationRequest(**options)))


def test_numbers_that_the_model_does_not_know_are_warned_about(
    files: dict[str, Path], tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    for seconds in (10, 11.5):
        request = GenerationRequest(
            **files, prompts=["x"], seconds=0.03, steps=1, conditions={"seconds_total": seconds}, output=tmp_path, device="cpu"
        )
        assert "nearest" not in warnings.text
        list(generate_files(request))
    assert "seconds_total 11.5: the model knows 0 to 10, and takes the nearest of these" in warnings.text


def test_lengths_beyond_training_are_warned_about(
    files: dict[str, Path], dit_config: Any, tmp_path: Path, warnings: pytest.LogCaptureFixture
) -> None:
    limit = dit_config()["sample_size"] / dit_config()["sample_rate"]
    for seconds in (limit, 2 * limit):
        assert "longer" not in warnings.text
        list(generate_files(GenerationRequest(**files, prompts=["x"], seconds=seconds, steps=1, output=tmp_path, device="cpu")))
    assert f"--seconds {2 * limit:g} is longer than the {limit:.3g} s that the model was trained on" in warnings.text


def test_conditions_that_are_missing_are_named(files: dict[str, Path], dit_config: Any, tmp_path: Path) -> None:
    config = dit_config()
    config["model"]["conditioning"]["configs"][1]["id"] = "bpm"
    config["model"]["diffusion"]["global_cond_ids"] = ["bpm"]
    (tmp_path / "m.json").write_text(json.dumps(config), encoding="utf-8")
    request = GenerationRequest(model_config=tmp_path / "m.json", ckpt_path=files["ckpt_path"], prompts=["x"])
    with pytest.raises(ConfigError, match="the model also wants bpm: give each as --cond id=value"):
        next(generate_files(request))
    config["model"]["conditioning"]["configs"][0]["id"] = "text"
    config["model"]["diffusion"]["cross_attention_cond_ids"] = ["text"]
    (tmp_path / "m.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ConfigError, match="the model has no condition 'prompt'; it has: text, bpm"):
        next(generate_files(request))


def test_no_length_anywhere(files: dict[str, Path], dit_config: Any, tmp_path: Path) -> None:
    config = dit_config()
    config.pop("sample_size")
    (tmp_path / "m.json").write_text(json.dumps(config), encoding="utf-8")
    request = GenerationRequest(model_config=tmp_path / "m.json", ckpt_path=files["ckpt_path"], prompts=["x"], device="cpu")
    with pytest.raises(ConfigError, match=r"m\.json: has no sample_size: say how long with --seconds"):
        next(generate_files(request))


# ---- writing ---------------------------------------------------------------------------------------------------------------------


def test_loud_clips_are_turned_down_and_quiet_ones_left_alone(tmp_path: Path) -> None:
    loud, quiet = torch.tensor([[0.0, 4.0, -2.0]]), torch.tensor([[0.0, 0.25, -0.125]])
    written = load(write_clip(tmp_path / "loud.wav", loud, 8000, {})).samples
    assert float(written.abs().max()) <= 1
    torch.testing.assert_close(written / written.abs().max(), loud / 4, atol=1e-4, rtol=0)
    torch.testing.assert_close(load(write_clip(tmp_path / "quiet.wav", quiet, 8000, {})).samples, quiet, atol=1e-4, rtol=0)


def test_metadata_is_text_and_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    made_with = {"prompt": 'a "kick"\n\u00e9', "seed": 3, "conditions": {"bpm": 1.5}, "negative_prompt": None}
    told = read_metadata(write_clip(tmp_path / "a.wav", torch.full((1, 9), 0.5), 8000, made_with))
    assert {key: told[key] for key in ("prompt", "seed", "conditions")} == {
        "prompt": 'a "kick"\n\u00e9', "seed": "3", "conditions": '{"bpm": 1.5}',
    }  # fmt: skip
    assert "negative_prompt" not in told


def test_silence_is_warned_about(tmp_path: Path, warnings: pytest.LogCaptureFixture) -> None:
    write_clip(tmp_path / "a.wav", torch.zeros(1, 9), 8000, {})
    assert "a.wav: is almost silent (peak 0.0e+00); is the model trained" in warnings.text


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ConfigError, match=r"a\.wav: the model made NaN or infinite samples; try --precision float32"):
        write_clip(tmp_path / "a.wav", torch.tensor([[0.0, value]]), 8000, {})
    assert not (tmp_path / "a.wav").exists()


# ---- small things ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A kick / drum: 120 BPM!", "a-kick-drum-120-bpm"),
        ("../../etc/passwd", "etc-passwd"),
        ("", "clip"),
        ("  ...  ", "clip"),
        ("\u0442\u0430\u0440\u0435\u043b\u043a\u0430", "clip"),
        ("CON", "con"),
        ("x" * 300, "x" * 40),
        ("a" * 39 + " b", "a" * 39),
    ],
)
def test_slugs_are_safe_file_names(text: str, name: str) -> None:
    assert slug(text) == name


def test_devices() -> None:
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cuda", "mps", "cpu")
    for name in ("gpu", "meta", "", "cpu:x"):
        with pytest.raises(ConfigError, match=f"--device '{name}': "):
            pick_device(name)
