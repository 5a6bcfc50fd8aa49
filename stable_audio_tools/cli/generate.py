"""``sat generate``: audio files from prompts, or from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def generate(
    model_config: Annotated[Path, typer.Option(help="Model config (JSON).")],
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="What to generate; may be given several times. Unconditional models take none.", show_default=False),
    ] = None,
    ckpt_path: Annotated[
        Path | None,
        typer.Option(help="Model weights: an unwrapped model or a training checkpoint. Only a pretrained MusicGen needs none."),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter file, or FILE:STRENGTH (1 as trained, 0 not at all); may be given several times, and they add up.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[float | None, typer.Option(min=0.01, help="Length of each clip; by default what the model was trained on.")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid.")] = None,
    num_variations: Annotated[int, typer.Option("--num-variations", "-n", min=1, help="Clips per prompt.")] = 1,
    cond: Annotated[
        list[str] | None, typer.Option(help="Another condition of the model, as id=value; may be given several times.", show_default=False)
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Sampler steps.")] = 100,
    cfg_scale: Annotated[float | None, typer.Option(help="Guidance scale; 1 is none. By default 6; 3 for language models.")] = None,
    sampler: Annotated[str | None, typer.Option(help="See 'sat list samplers'; by default what suits the model.")] = None,
    sigma_min: Annotated[float | None, typer.Option(help="Last noise level, for samplers of 'v' models (0.01).")] = None,
    sigma_max: Annotated[
        float | None, typer.Option(help="First noise level: 100 for samplers of 'v' models; a time from 0 to 1 for others (1).")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=-1, help="Of the first clip, others count up; the same seed gives the same audio; -1 draws one.")
    ] = -1,
    init_audio: Annotated[
        Path | None, typer.Option(help="Audio file to vary, instead of starting from noise; language models continue it.")
    ] = None,
    init_noise_level: Annotated[
        float | None, typer.Option(help="Noise mixed into it, on the scale of --sigma-max: 0 is none. By default 1, or the time 0.7.")
    ] = None,
    inpaint_audio: Annotated[
        Path | None, typer.Option(help="Audio file to keep all of but a gap, which is made anew by models of type diffusion_cond_inpaint.")
    ] = None,
    mask_start: Annotated[float | None, typer.Option(help="Where the gap begins, in seconds; by default the beginning.")] = None,
    mask_end: Annotated[float | None, typer.Option(help="Where the gap ends, in seconds; by default the end of the clip.")] = None,
    temp: Annotated[float | None, typer.Option(help="Temperature of language models (1); 0 takes the likeliest tokens.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Language models draw among so many likeliest tokens (250); 0 is no limit.")] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Language models draw among the likeliest tokens of this probability; 0 is no limit.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("outputs/generated"),
    device: Annotated[str, typer.Option(help="auto, cuda, cuda:N, mps or cpu.")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, float16 or bfloat16.")] = "float32",
) -> None:
    """Generate audio. Each WAV file says in its metadata how it was made: prompt, seed, sampler, model."""
    from stable_audio_tools.config.check import parse_model_config

    parse_model_config(model_config)  # mistakes are told before anything heavy is imported
    from stable_audio_tools.inference.files import GenerationRequest, generate_files

    request = GenerationRequest(
        model_config=model_config,
        ckpt_path=ckpt_path,
        adapters=[adapter_and_strength(text) for text in lora or []],
        prompts=prompt or (),
        negative_prompt=negative_prompt,
        seconds=seconds,
        num_variations=num_variations,
        conditions=_conditions(cond or []),
        steps=steps,
        cfg_scale=cfg_scale,
        sampler=sampler,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        seed=seed,
        init_audio=init_audio,
        init_noise_level=init_noise_level,
        inpaint_audio=inpaint_audio,
        mask_start=mask_start,
        mask_end=mask_end,
        temp=temp,
        top_k=top_k,
        top_p=top_p,
        output=output,
        device=device,
        precision=precision,
    )
    for path in generate_files(request):
        print(path)


def adapter_and_strength(text: str) -> tuple[Path, float]:
    """``FILE`` or ``FILE:STRENGTH``."""
    name, separator, strength = text.rpartition(":")
    try:
        return (Path(name), float(strength)) if separator and name else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0  # the colon belongs to the name


def _conditions(texts: list[str]) -> dict[str, Any]:
    conditions: dict[str, Any] = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not separator:
            raise typer.BadParameter(f"{text!r}: write it as id=value, for example --cond bpm=120")
        try:
            conditions[name] = float(value)
        except ValueError:
            conditions[name] = value
    return conditions
