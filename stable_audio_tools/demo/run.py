"""The demo: train a text-to-audio model here and now, listen to it, and measure it.

Every stage leaves its result in the output folder and is skipped when that is there, so a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import shlex
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from stable_audio_tools.audio import load, save
from stable_audio_tools.audio.plot import curves_image, spectrogram_image
from stable_audio_tools.checkpoint import atomic_path, load_model_weights, save_model_weights
from stable_audio_tools.demo.clips import ClipSet, chosen, load_clips, read_clip_set, synthesised
from stable_audio_tools.demo.evaluate import Evaluation, LabelledAudio, evaluate
from stable_audio_tools.demo.latents import encode_clips
from stable_audio_tools.demo.page import write_page
from stable_audio_tools.demo.synth import CLASSES, NUM_SAMPLES, SAMPLE_RATE
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.inference.files import slug, write_clip
from stable_audio_tools.inference.generation import generate_diffusion_cond
from stable_audio_tools.models.diffusion.wrappers import ConditionedDiffusionModelWrapper
from stable_audio_tools.models.factory import create_model_from_config
from stable_audio_tools.models.pretransforms.mel import MelPretransform
from stable_audio_tools.training.checkpointing import find_checkpoints
from stable_audio_tools.training.run import TrainOptions, train

logger = logging.getLogger(__name__)
MARKER = "settings.json"
SAMPLER_STEPS, CFG_SCALE, FIRST_SEED = 40, 3.0, 1000
MAX_RECONSTRUCTED = 10  # held-out clips per class that are encoded and decoded


@dataclass(frozen=True, kw_only=True)
class DemoSettings:
    """What a demo does.

    Attributes:
        output: Folder for everything it makes.
        audio_dir: A real folder of sounds; None synthesises some.
        captions: CSV table ``path,caption`` for it; None is ``captions.csv`` in the folder.
        classes: Classes in the real folder, by what captions contain; see `classes.parse_classes`. None chooses some.
        minutes: How long to train at most; None is 5 for synthesised sounds, 10 for a real folder.
        max_steps: How many steps to train at most.
        batch_size: Clips per step.
        num_train: Synthesised clips per class to train on.
        num_held_out: Synthesised clips per class to hold out.
        clips_per_class: Clips to generate for each class.
        seed: Of everything.
    """

    output: Path = Path("runs/demo")
    audio_dir: Path | None = None
    captions: Path | None = None
    classes: str | None = None
    minutes: float | None = None
    max_steps: int = 3000
    batch_size: int = 32
    num_train: int = 100
    num_held_out: int = 30
    clips_per_class: int = 8
    seed: int = 0

    @property
    def time_limit(self) -> float:
        """Minutes of training."""
        if self.minutes is not None:
            return self.minutes
        return 5.0 if self.audio_dir is None else 10.0

    def fingerprint(self) -> str:
        """Tells apart settings that lead to different results. Time limits do not count: a demo may be given more time."""
        data = {key: str(value) for key, value in asdict(self).items() if key not in ("output", "minutes")}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


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
    _refuse_folder(output, settings, fresh)
    clips = _known_clips(settings, fresh)
    minutes = settings.time_limit if fresh else _minutes_left(settings)
    decided = None if fresh else _marker(output).get("use_half")  # once: what was timed on a busy machine may come out differently later
    use_half = has_fast_bfloat16() if decided is None else decided
    if minutes:
        _make_folder(output, settings, fresh, use_half)
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
        checkpoint = _train(settings, config, len(train_clips), use_half, minutes, say)
        if checkpoint is None:
            return None
        model = _load(config, checkpoint)
        save_model_weights(model.state_dict(), output / "model.safetensors", metadata={"made_by": "sat demo"})
    model = _load(config, output / "model.safetensors")

    say(f"4. generating {settings.clips_per_class} clips for each of {len(clips.classes)} classes")
    generated = _generate(settings, model, clips, use_half)

    say("5. measuring")
    reconstructed_audio, reconstructed_labels = _reconstruct(model, [clip.name for clip in held_out_clips], held_out_audio)
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
    page = write_page(output, evaluation, clips.source, examples, _training_examples(output, train_clips, train_audio), curves)
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


# ---- stages -----------------------------------------------------------------------------------------------------------------------


def _refuse_folder(output: Path, settings: DemoSettings, fresh: bool) -> None:
    """Leave alone what is not this demo's."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: is a file; name a folder with --output")
    found = _marker(output).get("fingerprint")
    if found is None and output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output}: is not empty and holds no demo; choose another folder with --output")
    if found is not None and found != settings.fingerprint() and not fresh:
        raise ConfigError(f"{output}: holds a demo with other settings; throw it away with --fresh, or choose another folder with --output")


def _minutes_left(settings: DemoSettings) -> float:
    """How long to train: all of the time if training has not ended; otherwise what is more than the time that it had, if steps are left."""
    if not (settings.output / "model.safetensors").exists():
        return settings.time_limit
    checkpoints = find_checkpoints(settings.output / "training")
    step = int(checkpoints[-1].stem.rpartition("step=")[2]) if checkpoints else settings.max_steps
    if step >= settings.max_steps:
        return 0.0
    return max(0.0, settings.time_limit - replace(settings, minutes=_marker(settings.output)["minutes"]).time_limit)


def _make_folder(output: Path, settings: DemoSettings, fresh: bool, use_half: bool) -> None:
    if fresh and _marker(output):
        shutil.rmtree(output)
    (output / "model.safetensors").unlink(missing_ok=True)  # if there is one, its training is going to go on
    shutil.rmtree(output / "generated", ignore_errors=True)
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    with atomic_path(output / MARKER) as path:
        path.write_text(
            json.dumps({**shown, "use_half": use_half, "fingerprint": settings.fingerprint()}, indent=2) + "\n", encoding="utf-8"
        )


def _marker(output: Path) -> dict[str, Any]:
    """Settings of the demo in a folder; empty if there is no demo in it. Other programs have a settings.json, too."""
    try:
        found = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "fingerprint" in found else {}


def _known_clips(settings: DemoSettings, fresh: bool) -> ClipSet | None:
    """The clips of an earlier run, or of a real folder; None if they are still to be synthesised. Writes nothing."""
    done = settings.output / "clips.json"
    if done.exists() and not fresh:
        return read_clip_set(done)
    if settings.audio_dir is None:
        return None
    return chosen(settings.audio_dir, settings.captions, settings.classes, seed=settings.seed)


def _train(
    settings: DemoSettings, config: dict[str, Any], num_clips: int, use_half: bool, minutes: float, say: Callable[[str], None]
) -> Path | None:
    """Train, or go on training; the last checkpoint, or None if it was stopped."""
    folder = settings.output / "training"
    existing = find_checkpoints(folder)
    limit = TimeLimit(minutes * 60, settings.max_steps, say)
    repeat = max(1, -(-20 * settings.batch_size // num_clips))
    result = train(
        TrainOptions(
            model_config=config,
            dataset_config={
                "dataset_type": "stable_audio_tools.demo.latents:EncodedClips",
                "folder": str(settings.output / "latents"),
                "repeat": repeat,
            },
            run_folder=folder,
            name="demo",
            pretrained_ckpt_path=None if existing else settings.output / "initial.safetensors",
            ckpt_path=existing[-1] if existing else None,
            batch_size=settings.batch_size,
            num_workers=0,
            seed=settings.seed,
            precision="bf16-mixed" if use_half else "32-true",
            accelerator="cpu",
            max_steps=settings.max_steps,
            checkpoint_every=500,
            save_top_k=1,
            logger="tensorboard",
            demos=False,
            show_progress=False,
            callbacks=[limit],
        )
    )
    return None if result.stop_signal is not None else result.checkpoint or (existing[-1] if existing else None)


class TimeLimit(pl.Callback):
    """Ends training after some time, and says every 20 seconds how far it is.

    Args:
        seconds: How long training may take.
        max_steps: Steps after which it ends anyway.
        say: Receives progress.
    """

    EVERY_SECONDS = 20

    def __init__(self, seconds: float, max_steps: int, say: Callable[[str], None]) -> None:
        super().__init__()
        self.seconds, self.max_steps, self.say = seconds, max_steps, say
        self.started = 0.0
        self.first_step = 0
        self.last_said = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Look at the clock."""
        if not self.started:
            self.started, self.first_step = time.perf_counter(), trainer.global_step
            return
        elapsed = time.perf_counter() - self.started
        if elapsed - self.last_said > self.EVERY_SECONDS or (not self.last_said and elapsed > 5):
            self.last_said = elapsed
            per_step = elapsed / (trainer.global_step - self.first_step)
            left = min(self.seconds - elapsed, per_step * (self.max_steps - trainer.global_step))
            loss = float(trainer.callback_metrics["train/loss"])
            self.say(f"   step {trainer.global_step}, loss {loss:.3f}, {per_step:.2f} s per step, {left / 60:.1f} minutes left")
        if elapsed > self.seconds:
            trainer.should_stop = True


def _load(config: dict[str, Any], path: Path) -> ConditionedDiffusionModelWrapper:
    model = create_model_from_config(config)
    load_model_weights(model, path)
    assert isinstance(model, ConditionedDiffusionModelWrapper)
    return model.eval()


@dataclass(frozen=True)
class _Generated:
    name: str
    prompt: str
    path: Path
    audio: Tensor


def _generate(settings: DemoSettings, model: ConditionedDiffusionModelWrapper, clips: ClipSet, use_half: bool) -> list[_Generated]:
    generated: list[_Generated] = []
    for name, stem in _file_names(clips.classes).items():
        prompts = [clips.prompts[name][index % len(clips.prompts[name])] for index in range(settings.clips_per_class)]
        paths = [settings.output / "generated" / stem / f"{stem}_{index}.wav" for index in range(len(prompts))]
        if not all(path.exists() for path in paths):
            with torch.autocast("cpu", torch.bfloat16) if use_half else nullcontext():
                audio = generate_diffusion_cond(
                    model,
                    steps=SAMPLER_STEPS,
                    cfg_scale=CFG_SCALE,
                    conditioning=[{"prompt": prompt} for prompt in prompts],
                    batch_size=len(prompts),
                    sample_size=NUM_SAMPLES,
                    seed=FIRST_SEED,
                    disable_tqdm=True,
                )
            for path, prompt, clip in zip(paths, prompts, audio, strict=True):
                write_clip(path, clip, SAMPLE_RATE, {"prompt": prompt, "seed": FIRST_SEED, "steps": SAMPLER_STEPS, "cfg_scale": CFG_SCALE})
        for path, prompt in zip(paths, prompts, strict=True):
            samples = load(path).samples
            picture = path.with_suffix(".png")
            if not picture.exists():
                spectrogram_image(samples, SAMPLE_RATE, picture, size_inches=(3.2, 2.2))
            generated.append(_Generated(name, prompt, path, samples[0]))
    return generated


def _file_names(names: Sequence[str]) -> dict[str, str]:
    """A file name for each class. Names of which nothing is left, or the same, get a number."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        stem = slug(name)
        found[name] = stem if stem not in found.values() else f"{stem}-{len(found)}"
    return found


@torch.no_grad()
def _reconstruct(model: ConditionedDiffusionModelWrapper, names: Sequence[str], audio: Tensor) -> tuple[Tensor, list[str]]:
    """Some held-out clips of every class, encoded and decoded: (N, T) and their classes."""
    assert model.pretransform is not None
    chosen_indices = [index for index, name in enumerate(names) if names[:index].count(name) < MAX_RECONSTRUCTED]
    decoded = model.pretransform.decode(model.pretransform.encode(audio[chosen_indices]))
    return decoded[:, 0, : audio.shape[-1]], [names[index] for index in chosen_indices]


def _training_examples(output: Path, clips: Sequence[Any], audio: Tensor) -> dict[str, list[tuple[Path, str]]]:
    """A few training clips of every class, as files beside the page: class -> (file, caption)."""
    examples: dict[str, list[tuple[Path, str]]] = {}
    stems = _file_names([clip.name for clip in clips])
    for clip, samples in zip(clips, audio, strict=True):
        known = examples.setdefault(clip.name, [])
        if len(known) < 3:
            path = output / "examples" / f"{stems[clip.name]}_{len(known)}.wav"
            if not path.with_suffix(".png").exists():
                save(path, samples, SAMPLE_RATE)
                spectrogram_image(samples, SAMPLE_RATE, path.with_suffix(".png"), size_inches=(3.2, 2.2))
            known.append((path, clip.captions[0]))
    return examples


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


__all__ = ["CLASSES", "DemoSettings", "has_fast_bfloat16", "run_demo"]
