"""sat generate: prompts become files that say how they were made; wrong options are refused before the model is built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from stable_audio_tools.audio import load, probe, read_metadata, save
from stable_audio_tools.checkpoint import load_ckpt_state_dict, weights_hash


def generate(sat: Any, files: Any, folder: Path, *more: Any, steps: int = 2) -> Any:
    return sat("generate", *files.flags, "--output", folder, "--steps", steps, "--device", "cpu", *more)


def test_files_say_how_they_were_made(sat: Any, flow: Any, tmp_path: Path) -> None:
    arguments = ["--prompt", "A deep kick, 120 BPM!", "--seconds", 0.5, "--seed", 7, "--cfg-scale", 3, "--negative-prompt", "noise"]
    ran = generate(sat, flow, tmp_path, *arguments)
    path = tmp_path / "a-deep-kick-120-bpm_7.wav"
    assert (ran.status, ran.out) == (0, f"{path}\n")
    info = probe(path)
    assert (info.sample_rate, info.num_channels, info.num_frames) == (8000, 1, 4000)
    metadata = read_metadata(path)
    wanted = {
        "prompt": "A deep kick, 120 BPM!", "negative_prompt": "noise", "seed": "7", "steps": "2", "cfg_scale": "3.0", "sampler": "euler",
        "model": weights_hash(load_ckpt_state_dict(flow.weights)), "model_config": "model_config.json", "device": "cpu",
        "precision": "float32",
    }  # fmt: skip
    assert {key: metadata.get(key) for key in wanted} == wanted
    assert json.loads(metadata["conditions"]) == {"seconds_start": 0, "seconds_total": 0.5}
    assert "init_audio" not in metadata


def test_the_metadata_is_enough_to_make_it_again(sat: Any, raw: Any, tmp_path: Path) -> None:
    first = Path(generate(sat, raw, tmp_path / "a", "--prompt", "rain", "--sigma-max", 80, "--seconds", 0.1).out.strip())
    told = read_metadata(first)
    again = generate(
        sat, raw, tmp_path / "b", "--prompt", told["prompt"], "--seed", told["seed"], "--sampler", told["sampler"], "--cfg-scale",
        told["cfg_scale"], "--sigma-max", told["sigma_max"], "--seconds", json.loads(told["conditions"])["seconds_total"],
        steps=int(told["steps"]),
    )  # fmt: skip
    assert Path(again.out.strip()).name == first.name
    assert torch.equal(load(first).samples, load(again.out.strip()).samples)


def test_prompts_and_variations_count_seeds_up(sat: Any, raw: Any, tmp_path: Path) -> None:
    ran = generate(sat, raw, tmp_path, "--prompt", "rain", "--prompt", "wind", "-n", 2, "--seed", 5, "--seconds", 0.05)
    names = [Path(line).name for line in ran.out.splitlines()]
    assert names == ["rain_1_5.wav", "rain_2_6.wav", "wind_1_7.wav", "wind_2_8.wav"]
    alone = generate(sat, raw, tmp_path / "alone", "--prompt", "wind", "--seed", 8, "--seconds", 0.05)
    assert torch.equal(load(alone.out.strip()).samples, load(tmp_path / "wind_2_8.wav").samples)


def test_a_seed_is_drawn_and_told(sat: Any, raw: Any, tmp_path: Path) -> None:
    paths = [Path(generate(sat, raw, tmp_path, "--prompt", "x", "--seconds", 0.05).out.strip()) for _ in range(2)]
    seeds = [read_metadata(path)["seed"] for path in paths]
    assert seeds[0] != seeds[1]
    assert [path.stem.split("_")[1] for path in paths] == seeds


def test_conditions_reach_the_model(sat: Any, flow: Any, tmp_path: Path) -> None:
    base = ["--prompt", "x", "--seed", 1]
    plain = load(generate(sat, flow, tmp_path / "a", *base).out.strip()).samples
    longer = generate(sat, flow, tmp_path / "b", *base, "--cond", "seconds_total=9").out.strip()
    assert json.loads(read_metadata(longer)["conditions"])["seconds_total"] == 9
    assert not torch.equal(plain, load(longer).samples)
    assert plain.shape[-1] == 1024  # the model's sample_size


def test_no_noise_gives_the_file_back(sat: Any, raw: Any, tmp_path: Path, write_noises: Any) -> None:
    noise = write_noises(tmp_path / "in", 1) / "00.wav"
    ran = generate(sat, raw, tmp_path, "--prompt", "x", "--seconds", 0.5, "--init-audio", noise, "--init-noise-level", 0)
    torch.testing.assert_close(load(ran.out.strip()).samples, load(noise).samples, atol=1e-4, rtol=0)
    assert read_metadata(ran.out.strip())["init_audio"] == str(noise)


def test_the_usual_noise_level_keeps_something_of_the_file(sat: Any, flow: Any, tmp_path: Path, write_noises: Any) -> None:
    """For a rectified flow, level 1 is nothing but noise: the file would have no effect."""
    noise = write_noises(tmp_path / "in", 1) / "00.wav"
    path = generate(sat, flow, tmp_path, "--prompt", "x", "--seed", 1, "--init-audio", noise).out.strip()
    assert read_metadata(path)["init_noise_level"] == "0.7"
    without = generate(sat, flow, tmp_path / "b", "--prompt", "x", "--seed", 1).out.strip()
    assert not torch.equal(load(path).samples, load(without).samples)


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_is_close(sat: Any, flow: Any, tmp_path: Path, precision: str) -> None:
    made = [
        load(generate(sat, flow, tmp_path / name, "--prompt", "x", "--seed", 1, "--precision", name, "--cfg-scale", 1).out.strip()).samples
        for name in ("float32", precision)
    ]
    assert (made[0] - made[1]).norm() < 0.2 * made[0].norm()
    assert not torch.equal(*made)


def test_unconditional_models_take_no_prompt(sat: Any, nothing: Any, tmp_path: Path) -> None:
    ran = generate(sat, nothing, tmp_path, "-n", 2, "--seed", 3, "--seconds", 0.03, "--sampler", "v-ddim")
    assert ran.status == 0, ran.err
    paths = [Path(line) for line in ran.out.splitlines()]
    assert [path.name for path in paths] == ["clip_1_3.wav", "clip_2_4.wav"]
    assert [load(path).samples.shape for path in paths] == [(1, 240)] * 2
    told = read_metadata(paths[1])
    assert (told["seed"], told["sampler"], told["model_config"]) == ("4", "v-ddim", "model_config.json")
    assert not {"prompt", "cfg_scale", "conditions"} & set(told)
    again = generate(sat, nothing, tmp_path / "again", "--seed", 4, "--seconds", 0.03, "--sampler", "v-ddim").out.strip()
    assert torch.equal(load(again).samples, load(paths[1]).samples)


def test_unconditional_models_vary_a_file(sat: Any, nothing: Any, tmp_path: Path, write_noises: Any) -> None:
    noise = write_noises(tmp_path / "in", 1) / "00.wav"
    path = generate(sat, nothing, tmp_path, "--init-audio", noise, "--init-noise-level", 0).out.strip()
    torch.testing.assert_close(load(path).samples, load(noise).samples[:, :256], atol=1e-4, rtol=0)


def test_only_what_lies_outside_the_gap_matters(sat: Any, gaps: Any, tmp_path: Path, write_noises: Any) -> None:
    """The kept half is the same in both files, the other is not."""
    folder = write_noises(tmp_path / "in", 2)
    one, other = (load(folder / name).samples[:, :512].clone() for name in ("00.wav", "01.wav"))
    other[:, :256] = one[:, :256]
    for name, samples in (("one", one), ("other", other)):
        save(tmp_path / f"{name}.wav", samples, 8000)

    def made(name: str, *flags: Any) -> torch.Tensor:
        ran = generate(sat, gaps, tmp_path / "out", "--prompt", "x", "--seed", 1, "--inpaint-audio", tmp_path / f"{name}.wav", *flags)
        assert ran.status == 0, ran.err
        assert read_metadata(ran.out.strip())["inpaint_audio"] == str(tmp_path / f"{name}.wav")
        return load(ran.out.strip()).samples

    assert torch.equal(made("one", "--mask-start", 0.032), made("other", "--mask-start", 0.032))
    assert torch.equal(made("one", "--mask-start", 0.032), made("one", "--mask-start", 0.032, "--mask-end", 0.064))
    assert not torch.equal(made("one", "--mask-end", 0.032), made("other", "--mask-end", 0.032))


# ---- wrong options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        ("flow", "--sampler eulr", "unknown sampler 'eulr'; did you mean 'euler'?"),
        ("flow", "--sampler dpmpp-2m", "sampler 'dpmpp-2m' cannot be used with objective 'rectified_flow'; use one of dpmpp, euler"),
        ("flow", "--sigma-min 0.1", "--sigma-min has no effect with sampler 'euler', which goes through times from 1 to 0; leave it out"),
        ("flow", "--sigma-max 500", "--sigma-max is a time from 0 to 1 with sampler 'euler', got 500"),
        ("raw", "--sigma-max -1", "--sigma-max is a level of at least 0 with sampler 'dpmpp-2m-sde', got -1"),
        ("raw", "--sigma-max nan", "--sigma-max is a finite number, got nan"),
        ("raw", "--seconds inf", "--seconds is a finite number, got inf"),
        ("raw", "--cfg-scale nan", "--cfg-scale is a finite number, got nan"),
        ("raw", "--sigma-min 5 --sigma-max 2", "noise levels go from --sigma-max down to --sigma-min, which is above 0; got 2 and 5"),
        ("raw", "--seed 99999999999999999999", "--seed is at least 0 and below 9223372036854775808, or -1 to draw one, got "),
        ("raw", "--cond bpm=3", "--cond bpm: the model has no such condition; it has: prompt, seconds_start, seconds_total"),
        ("raw", "--cond prompt=rain", "--cond prompt: write it as --prompt"),
        ("raw", "--cond seconds_total=long", "conditioner 'number': expected a number, got 'long'"),
        ("raw", "--negative-prompt x --cfg-scale 1", "--negative-prompt has no effect with --cfg-scale 1, which is no guidance"),
        ("raw", "--init-noise-level 1", "--init-noise-level has no effect without --init-audio"),
        ("raw", "--init-audio nowhere.wav", "nowhere.wav: cannot be opened: No such file or directory; expected an audio file"),
        ("raw", "--device gpu", "--device 'gpu': one of auto, cuda, cuda:N, mps, cpu"),
        ("raw", "--precision float64", "--precision 'float64': one of float32, float16, bfloat16"),
        ("nothing", "", "--prompt has no effect with model_type 'diffusion_uncond', which knows no conditions; leave it out"),
        ("flow", "--inpaint-audio a.wav", "--inpaint-audio has no effect with model_type 'diffusion_cond', which fills no gaps ("),
        ("flow", "--mask-end 1", "--mask-end has no effect with model_type 'diffusion_cond', which fills no gaps ("),
        ("gaps", "--mask-start 0.01", "--mask-start has no effect without --inpaint-audio"),
        ("gaps", "--inpaint-audio a.wav", "--inpaint-audio wants to know what to make anew: give --mask-start, --mask-end or both"),
        ("gaps", "--inpaint-audio a.wav --mask-start 0.01 --mask-end 0.01",
         "the gap goes from --mask-start to --mask-end, within the clip of 0.064 s; got 0.01 to 0.01"),
        ("gaps", "--inpaint-audio a.wav --mask-start 2", "the gap goes from --mask-start to --mask-end, within the clip of 0.064 s; got 2"),
        ("gaps", "--inpaint-audio a.wav --mask-end nan", "--mask-end is a finite number, got nan"),
        ("gaps", "--inpaint-audio a.wav --mask-end 0.02", "a.wav: cannot be opened: No such file or directory; expected an audio file"),
        ("diffae", "", "diffae_config: cannot generate with model_type 'diffusion_autoencoder', which only codes audio: use its"),
        ("raw", "--seconds 1e9", "a clip of 1e+09 s does not fit into memory ("),
    ],
)  # fmt: skip
def test_wrong_options(sat: Any, request: pytest.FixtureRequest, tmp_path: Path, model: str, arguments: str, message: str) -> None:
    files = request.getfixturevalue(model)
    ran = sat("generate", *files.flags, "--prompt", "x", "--output", tmp_path, "--steps", 2, *arguments.split())
    assert (ran.status, ran.out) == (1, "")
    assert ran.told.startswith(f"error: {message.replace('diffae_config', str(files.config))}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--cond bpm", "Error: Invalid value: 'bpm': write it as id=value, for example --cond bpm=120"),
        ("--steps 0", "Error: Invalid value for '--steps': "),
        ("--seconds 0", "Error: Invalid value for '--seconds': "),
        ("--seed -2", "Error: Invalid value for '--seed': "),
        ("-n 0", "Error: Invalid value for '--num-variations' / '-n': "),
    ],
)
def test_impossible_numbers(sat: Any, raw: Any, arguments: str, message: str) -> None:
    ran = sat("generate", *raw.flags, "--prompt", "x", *arguments.split())
    assert ran.status == 2
    assert ran.told.startswith(message)


@pytest.mark.parametrize("flag", ["--negative-prompt x", "--cond bpm=3", "--cfg-scale 3", "--top-k 3", "--mask-start 1"])
def test_flags_that_mean_nothing_without_conditions(sat: Any, nothing: Any, tmp_path: Path, flag: str) -> None:
    ran = generate(sat, nothing, tmp_path, *flag.split())
    assert ran.status == 1
    assert ran.told.startswith(f"error: {flag.split()[0]} has no effect with model_type 'diffusion_uncond', which ")


def test_conditional_models_want_a_prompt(sat: Any, raw: Any, tmp_path: Path) -> None:
    assert generate(sat, raw, tmp_path).told == "error: nothing to generate: give at least one --prompt"


def test_wrong_files(sat: Any, flow: Any, raw: Any, vae: Any, noises: Path, tmp_path: Path) -> None:
    def told(config: Path, weights: Path, *more: Any) -> str:
        ran = sat("generate", "--model-config", config, "--ckpt-path", weights, "--prompt", "x", "--output", tmp_path / "out", *more)
        assert ran.status == 1
        assert not (tmp_path / "out").exists()
        return ran.told

    assert told(tmp_path / "a.json", flow.weights) == f"error: {tmp_path / 'a.json'}: no such file"
    assert told(vae.config, flow.weights) == (
        f"error: {vae.config}: cannot generate with model_type 'autoencoder', which only codes audio: use its encode_audio and "
        "decode_audio in Python, or make it the pretransform of a model that generates"
    )
    assert "model_type: required key is missing" in told(noises, flow.weights)
    assert told(flow.config, tmp_path / "a.ckpt") == f"error: {tmp_path / 'a.ckpt'}: no such file"
    assert told(flow.config, vae.weights) == (
        f"error: {vae.weights}: is an autoencoder (unwrapped), but this model wants a whole diffusion model (unwrapped); "
        "--pretransform-ckpt-path takes it, or --pretrained-ckpt-path when training an autoencoder"
    )
    assert ": does not fit the model: 49 of the model's 148 tensors loaded" in told(flow.config, raw.weights)
    assert ": is not a checkpoint: it begins with b'{" in told(flow.config, flow.config)
    assert told(flow.config, flow.weights, "--init-audio", flow.config).startswith(
        f"error: {flow.config}: is not audio that can be decoded"
    )


def test_an_output_that_is_no_folder(sat: Any, raw: Any, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert generate(sat, raw, file, "--prompt", "x").told == f"error: --output {file}: is a file; name a folder"
    told = generate(sat, raw, file / "below", "--prompt", "x", "--seconds", 0.05, "--seed", 1).told
    assert told.startswith(
        f"error: {file / 'below' / 'x_1.wav'}: cannot write 1 channels at 8000 Hz as WAV/PCM_16: [Errno 20] Not a directory"
    )
