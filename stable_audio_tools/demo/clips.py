"""The clips a demo works on: synthesised, or chosen from a real folder by what their captions say."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from stable_audio_tools.audio import load, save, to_mono
from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.data.metadata import read_captions
from stable_audio_tools.demo.captions import caption, test_prompt
from stable_audio_tools.demo.classes import features, select_classes, split
from stable_audio_tools.demo.propose import propose_classes
from stable_audio_tools.demo.synth import CLASSES, NUM_SAMPLES, SAMPLE_RATE, make_sound
from stable_audio_tools.errors import AudioError, ConfigError

logger = logging.getLogger(__name__)
CAPTIONS_PER_CLIP = 24
MIN_FILES = 8  # of a class in a real folder
FADE_SECONDS = 0.05  # at the end of a clip: a sound that is cut there would end in a click, which a model learns like anything else
HELD_OUT_SHARE = 0.25
SENTENCES = ("the sound of {}", "a recording of {}", "just one {}, please", "this is {}, played once")  # training never sees these


@dataclass(frozen=True)
class Clip:
    """One sound.

    Attributes:
        path: Its audio file.
        name: Its class.
        captions: Texts that are true of it; training draws one of them each time.
        is_held_out: Neither trained on nor seen by the classifier when it was fitted.
    """

    path: str
    name: str
    captions: tuple[str, ...]
    is_held_out: bool


@dataclass(frozen=True)
class ClipSet:
    """All clips of a demo.

    Attributes:
        clips: The clips.
        source: Where they come from, in words.
        prompts: Class -> prompts in a wording that no caption has.
    """

    clips: tuple[Clip, ...]
    source: str
    prompts: dict[str, tuple[str, ...]]

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return list(self.prompts)

    def select(self, *, held_out: bool) -> list[Clip]:
        """The clips that are, or are not, held out."""
        return [clip for clip in self.clips if clip.is_held_out == held_out]

    def write(self, path: Path) -> None:
        """Write everything but the audio as JSON."""
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def read_clip_set(path: Path) -> ClipSet:
    """Read what `ClipSet.write` wrote."""
    data = json.loads(path.read_text(encoding="utf-8"))
    clips = tuple(Clip(c["path"], c["name"], tuple(c["captions"]), c["is_held_out"]) for c in data["clips"])
    return ClipSet(clips, data["source"], {name: tuple(texts) for name, texts in data["prompts"].items()})


def synthesised(folder: Path, *, num_train: int, num_held_out: int, seed: int) -> ClipSet:
    """Synthesise clips of every class and write them as WAV files.

    Args:
        folder: Where to.
        num_train: Clips per class to train on.
        num_held_out: Clips per class to hold out.
        seed: The same seed gives the same clips.
    """
    clips: list[Clip] = []
    for name in CLASSES:
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        for index in range(num_train + num_held_out):
            sound = make_sound(name, rng)
            texts = {caption(name, rng, traits=sound.traits): None for _ in range(CAPTIONS_PER_CLIP)}
            path = folder / name.replace(" ", "_") / f"{index:04d}.wav"
            save(path, torch.from_numpy(sound.samples)[None], SAMPLE_RATE)
            clips.append(Clip(str(path), name, tuple(texts), is_held_out=index >= num_train))
    prompts = {name: tuple(dict.fromkeys(test_prompt(name, index) for index in range(24))) for name in CLASSES}
    return ClipSet(tuple(clips), f"{len(clips)} sounds of {len(CLASSES)} classes, synthesised by this program", prompts)


def chosen(audio_dir: Path, captions: Path | None, spec: str | None, *, seed: int) -> ClipSet:
    """Choose files of a real folder by their captions.

    Args:
        audio_dir: The folder.
        captions: CSV table ``path,caption``; None is ``captions.csv`` in the folder.
        spec: Classes, see `classes.parse_classes`; None chooses words of the captions whose files sound different.
        seed: Of the split into training and held-out files.

    Raises:
        ConfigError: If there is no such folder or table, or a class has too few files.
    """
    if not audio_dir.is_dir():
        raise ConfigError(f"{audio_dir}: {'is a file, not a folder' if audio_dir.exists() else 'no such folder'}")
    captions = captions or audio_dir / "captions.csv"
    if not captions.is_file():
        raise ConfigError(f"{captions}: no such file; --captions names a CSV table with the columns path and caption")
    rows = read_captions(captions)
    paths = [path for path in rows if (audio_dir / path).is_file()]
    if not paths:
        raise ConfigError(f"{captions}: none of its {len(rows)} paths is a file below {audio_dir}")
    texts = [str(rows[path]["prompt"]) for path in paths]
    how = ""
    if spec is None:
        spec = ",".join(_proposed([str(audio_dir / path) for path in paths], texts))
        how = f" ({spec}: words of the captions, chosen because they sound different; --classes names others)"
    selection = select_classes(texts, spec, min_files=MIN_FILES)
    parts = split(selection.classes, held_out_share=HELD_OUT_SHARE, seed=seed)
    clips = [
        Clip(str(audio_dir / paths[index]), members.name, _wordings(texts[index], members.name), is_held_out)
        for is_held_out, group in ((False, parts.fit), (True, parts.held_out))
        for members in group
        for index in members.indices
    ]
    logger.info(
        "%d files of %d classes; left out %d that match no class and %d that match several",
        len(clips), len(selection.classes), selection.num_unmatched, selection.num_ambiguous,
    )  # fmt: skip
    prompts = {members.name: tuple(sentence.format(_with_article(members.name)) for sentence in SENTENCES) for members in selection.classes}
    return ClipSet(tuple(clips), f"{len(clips)} files of {len(selection.classes)} classes from {audio_dir}{how}", prompts)


def _proposed(paths: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Classes that can be told apart by ear."""
    clips, audio = load_clips([Clip(path, "", (text,), is_held_out=False) for path, text in zip(paths, texts, strict=True)])
    return propose_classes([clip.captions[0] for clip in clips], features(audio[:, 0], SAMPLE_RATE))


def _wordings(text: str, name: str) -> tuple[str, ...]:
    """A caption, and shorter ones that are true as well: with few files, a text encoder would otherwise learn whole captions by heart."""
    short = text.split(" from ")[0].split(",")[0].strip()
    return tuple(dict.fromkeys([text, short, f"{short} sound", name, f"{name} sound", f"one {name}", _with_article(name)]))


def _with_article(words: str) -> str:
    return f"{'an' if words[:1].lower() in 'aeiou' else 'a'} {words}"


def load_clips(clips: Sequence[Clip], *, sample_rate: int = SAMPLE_RATE, num_samples: int = NUM_SAMPLES) -> tuple[list[Clip], Tensor]:
    """Decode clips to mono of one length: cut with a short fade, or padded at the end, peaks at 0.8.

    Files that cannot be decoded are left out and named.

    Args:
        clips: The clips.
        sample_rate: In Hz.
        num_samples: Length of each.

    Returns:
        The clips that could be decoded, and their samples (N, 1, T).

    Raises:
        AudioError: If none of a class could be decoded.
    """
    good: list[Clip] = []
    samples: list[Tensor] = []
    reasons: list[str] = []
    fade = ((num_samples - 1 - torch.arange(num_samples)) / (FADE_SECONDS * sample_rate)).clamp(max=1)  # (T,), from 1 to 0
    for clip in clips:
        try:
            audio = to_mono(load(clip.path, num_frames=num_samples, sample_rate=sample_rate).samples)  # (1, at most T)
        except AudioError as error:
            reasons.append(str(error))
            logger.warning("skipped: %s", error)
            continue
        audio = torch.nn.functional.pad(audio, (0, num_samples - audio.shape[-1])) * fade  # (1, T)
        peak = float(audio.abs().max())
        if peak < 1e-4:
            reasons.append(f"{clip.path}: silent")
            logger.warning("skipped: %s: silent", clip.path)
            continue
        samples.append(audio * (0.8 / peak))
        good.append(clip)
    if not good:
        raise AudioError(f"none of {len(clips)} clips can be used: {reasons[0] if reasons else 'there are none'}")
    if reasons:
        logger.warning("skipped %d of %d clips", len(reasons), len(clips))
    lost = {clip.name for clip in clips} - {clip.name for clip in good}
    if lost:
        raise AudioError(f"no clip of {', '.join(map(repr, sorted(lost)))} can be used; the first that failed: {reasons[0]}")
    return good, torch.stack(samples)
