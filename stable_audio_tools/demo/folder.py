"""What a demo does, and the folder that it does it in: whose it is, and what an earlier demo has left there."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.demo.clips import ClipSet, chosen, read_clip_set
from stable_audio_tools.errors import ConfigError
from stable_audio_tools.training.checkpointing import find_checkpoints

MARKER = "settings.json"


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


def refuse_folder(output: Path, settings: DemoSettings, fresh: bool) -> None:
    """Leave alone what is not this demo's."""
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output}: is a file; name a folder with --output")
    found = marker_of(output).get("fingerprint")
    if found is None and output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output}: is not empty and holds no demo; choose another folder with --output")
    if found is not None and found != settings.fingerprint() and not fresh:
        raise ConfigError(f"{output}: holds a demo with other settings; throw it away with --fresh, or choose another folder with --output")


def minutes_left(settings: DemoSettings) -> float:
    """How long to train: all of the time if training has not ended; otherwise what is more than the time that it had, if steps are left."""
    if not (settings.output / "model.safetensors").exists():
        return settings.time_limit
    checkpoints = find_checkpoints(settings.output / "training")
    step = int(checkpoints[-1].stem.rpartition("step=")[2]) if checkpoints else settings.max_steps
    if step >= settings.max_steps:
        return 0.0
    return max(0.0, settings.time_limit - replace(settings, minutes=marker_of(settings.output)["minutes"]).time_limit)


def make_folder(output: Path, settings: DemoSettings, fresh: bool, use_half: bool) -> None:
    """Make or empty the folder for a demo that is going to train, and mark it as this demo's."""
    if fresh and marker_of(output):
        shutil.rmtree(output)
    (output / "model.safetensors").unlink(missing_ok=True)  # if there is one, its training is going to go on
    shutil.rmtree(output / "generated", ignore_errors=True)
    shown = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(settings).items()}
    with atomic_path(output / MARKER) as path:
        path.write_text(
            json.dumps({**shown, "use_half": use_half, "fingerprint": settings.fingerprint()}, indent=2) + "\n", encoding="utf-8"
        )


def marker_of(output: Path) -> dict[str, Any]:
    """Settings of the demo in a folder; empty if there is no demo in it. Other programs have a settings.json, too."""
    try:
        found = json.loads((output / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and "fingerprint" in found else {}


def known_clips(settings: DemoSettings, fresh: bool) -> ClipSet | None:
    """The clips of an earlier run, or of a real folder; None if they are still to be synthesised. Writes nothing."""
    done = settings.output / "clips.json"
    if done.exists() and not fresh:
        return read_clip_set(done)
    if settings.audio_dir is None:
        return None
    return chosen(settings.audio_dir, settings.captions, settings.classes, seed=settings.seed)
