"""The demo: train a text-to-audio model here and now, listen to it, and measure it.

Every stage leaves its result in the output folder and is skipped when that is there, so a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import json
import logging
import shlex
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from stable_audio_tools.audio.plot import curves_image
from stable_audio_tools.checkpoint import load_model_weights, save_model_weights
from stable_audio_tools.demo.clips import load_clips, synthesised
from stable_audio_tools.demo.evaluate import Evaluation, LabelledAudio, evaluate
from stable_audio_tools.demo.folder import DemoSettings, known_clips, make_folder, marker_of, minutes_left, refuse_folder
from stable_audio_tools.demo.latents import encode_clips
from stable_audio_tools.demo.listen import generate_clips, reconstruct, training_examples
from stable_audio_tools.demo.page import write_page
from stable_audio_tools.demo.synth import CLASSES, SAMPLE_RATE
from stable_audio_tools.demo.training import train_model
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.pretransforms.mel import MelPretransform

logger = logging.getLogger(__name__)


def run_demo(settings: DemoSettings, *, say: Callable[[str], None], fresh: bool = False) -> Evaluation | None:
    """Run all stages that are not done yet.

    Args:
        settings: What to do.
        say: Receives progress, line by line.
        fresh: Throw away what an earlier demo left in the output folder.

    Returns:
        The measurements; None if it was stopped before the end.

    Raises:
        ConfigError: If the folder holds a demo with other settings, or a class of a real folder has too few files.
    """
    started = time.perf_counter()
    output = settings.output
    refuse_folder(output, settings, fresh)
    clips = known_clips(settings, fresh)
    minutes = settings.time_limit if fresh else minutes_left(settings)
    decided = None if fresh else marker_of(output).get("use_half")  # once: what was timed on a busy machine may come out differently later
    use_half = has_fast_bfloat16() if decided is None else decided
    if minutes:
        make_folder(output, settings, fresh, use_half)
    for line in plan(settings, use_half, minutes):
        say(line)

    say("\n1. sounds")
    if clips is None:
        sounds = output / "sounds"
        clips = synthesised(sounds, num_train=settings.num_train, num_held_out=settings.num_held_out, seed=settings.seed)
    clips.write(output / "clips.json")
    say(f"   {clips.source}")
    train_clips, train_audio = load_clips(clips.select(held_out=False))
    held_out_clips, held_out_audio = load_clips(clips.select(held_out=True))

    say("2. latents")
    config = model_config()
    (output / "model_config.json").write_text(json.dumps(config, indent=4) + "\n", encoding="utf-8")
    if not (output / "initial.safetensors").exists():
        torch.manual_seed(settings.seed)
        model = create_model_from_config(config)
        assert isinstance(model.pretransform, MelPretransform)
        kept = model.pretransform.fit(train_audio)
        latents = encode_clips(model.pretransform, train_clips, train_audio, output / "latents")
        say(f"   {len(latents)} clips as {latents.shape[1]} x {latents.shape[2]} latents, which keep {kept:.0%} of the spectrograms")
        save_model_weights(model.state_dict(), output / "initial.safetensors")
        del model

    say("3. training")
    if not (output / "model.safetensors").exists():
        checkpoint = train_model(settings, config, len(train_clips), use_half, minutes, say)
        if checkpoint is None:
            return None
        model = _load(config, checkpoint)
        save_model_weights(model.state_dict(), output / "model.safetensors", metadata={"made_by": "sat demo"})
    model = _load(config, output / "model.safetensors")

    say(f"4. generating {settings.clips_per_class} clips for each of {len(clips.classes)} classes")
    generated = generate_clips(settings, model, clips, use_half)

    say("5. measuring")
    reconstructed_audio, reconstructed_labels = reconstruct(model, [clip.name for clip in held_out_clips], held_out_audio)
    evaluation = evaluate(
        LabelledAudio(train_audio[:, 0], [clip.name for clip in train_clips]),
        LabelledAudio(held_out_audio[:, 0], [clip.name for clip in held_out_clips]),
        LabelledAudio(reconstructed_audio, reconstructed_labels),
        LabelledAudio(torch.stack([clip.audio for clip in generated]), [clip.name for clip in generated]),
        sample_rate=SAMPLE_RATE,
    )
    (output / "evaluation.json").write_text(json.dumps(evaluation.as_dict(), indent=2) + "\n", encoding="utf-8")
    curves = _curves(output)
    examples = [(name, prompt, path) for name, prompt, path in ((clip.name, clip.prompt, clip.path) for clip in generated)]
    page = write_page(output, evaluation, clips.source, examples, training_examples(output, train_clips, train_audio), curves)
    for line in summary(evaluation, page, output, time.perf_counter() - started):
        say(line)
    return evaluation


def plan(settings: DemoSettings, use_half: bool, minutes: float) -> list[str]:
    """What the demo is going to do, and how long it takes, with so many minutes of training."""
    precision = "bfloat16, which this processor computes quickly" if use_half else "float32"
    if not minutes:
        return [
            f"The model in {settings.output}/ has had its training; only what is missing is made again (in {precision}).",
            "More --minutes train it longer, up to --max-steps; --fresh starts anew.",
        ]
    synthesised_here = f"{len(CLASSES)} kinds of sound that it synthesises itself"
    what = synthesised_here if settings.audio_dir is None else f"your sounds in {settings.audio_dir}"
    return [
        f"This trains a small text-to-audio model on {what}, generates from prompts it has not seen, and measures the result.",
        f"It trains for at most {minutes:g} minutes (in {precision}) and takes about {minutes + 2:.0f} minutes "
        "in all. Ctrl-C stops it; the same command goes on.",
        f"Everything goes to {settings.output}/.",
    ]


def summary(evaluation: Evaluation, page: Path, output: Path, seconds: float) -> list[str]:
    """What came out, and what to type next."""
    by_class = ", ".join(f"{name} {share:.0%}" for name, share in evaluation.agreement_by_class.items())
    prompt = f"a short {evaluation.classes[0]}"
    config, weights = (shlex.quote(str(output / name)) for name in ("model_config.json", "model.safetensors"))
    return [
        "",
        f"Agreement of generated clips with their prompts: {evaluation.agreement:.0%} (chance {evaluation.chance:.0%}; the classifier is "
        f"right about {evaluation.classifier_accuracy:.0%} of held-out real sounds)",
        f"  {by_class}",
        f"Done in {seconds / 60:.1f} minutes. Listen: open {page}",
        "",
        "Next:",
        f"  sat generate --model-config {config} --ckpt-path {weights} --prompt {shlex.quote(prompt)} -n 4",
        "  sat demo --audio-dir YOUR_FOLDER --captions YOUR_CAPTIONS.csv --classes 'kick|bass drum,snare,piano'",
        "  sat train --help",
    ]


def model_config() -> dict[str, Any]:
    """The demo's model config, as shipped."""
    file = resources.files("stable_audio_tools") / "configs" / "model_configs" / "txt2audio" / "demo.json"
    return json.loads(file.read_text(encoding="utf-8"))


def has_fast_bfloat16() -> bool:
    """Whether matrix products in bfloat16 are clearly faster than in float32 here; found out by trying."""
    times: list[float] = []
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.ones(512, 512, dtype=dtype)
        square.matmul(square)
        started = time.perf_counter()
        for _ in range(8):
            square.matmul(square)
        times.append(time.perf_counter() - started)
    return times[1] < 0.7 * times[0]


def _load(config: dict[str, Any], path: Path) -> ConditionedDiffusionModelWrapper:
    model = create_model_from_config(config)
    load_model_weights(model, path)
    assert isinstance(model, ConditionedDiffusionModelWrapper)
    return model.eval()


def _curves(output: Path) -> Path | None:
    """A picture of the loss over steps."""
    table = output / "training" / "metrics" / "metrics.csv"
    if not table.is_file():
        return None
    with table.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("train/loss")]
    points = [(float(row["step"]), float(row["train/loss"])) for row in rows]
    curve = ([x for x, _ in points], [y for _, y in points])
    return curves_image({"training loss": curve}, output / "loss.png")


__all__ = ["has_fast_bfloat16", "run_demo"]
