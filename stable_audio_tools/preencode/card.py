"""The card of a store: what it was made of and how, which a run that goes on with it must agree with."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_audio_tools.audio import AUDIO_EXTENSIONS
from stable_audio_tools.checkpoint import atomic_path
from stable_audio_tools.data.files import find_audio_files
from stable_audio_tools.data.latent_file import LATENT_SUFFIXES
from stable_audio_tools.data.store_facts import CARD, DETAILS
from stable_audio_tools.errors import DataError

README = "README.md"
PATIENCE = 600.0  # seconds to wait for the first process
NAMES = {
    "model": "model", "sample_size": "--sample-size", "store": "--store or --is-discrete", "dtype": "--dtype or --model-half",
    "format": "--format", "pad": "--pad", "full_length": "--full-length", "seed": "--seed", "shuffle": "--shuffle",
    "dataset": "dataset", "cache_conditions": "--cache-conditions",
}  # fmt: skip


def digest_of(value: Any) -> str:
    """16 hexadecimal digits that identify plain data."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def begin_card(folder: Path, card: Mapping[str, Any], *, is_first: bool) -> dict[str, Any]:
    """Write the card of a new store, or compare with the one that is there.

    Args:
        folder: The store.
        card: What this run would write.
        is_first: Whether this process writes it; others wait for that.

    Returns:
        The card that is there now.

    Raises:
        DataError: If the store was made with something else, or the folder holds something else.
    """
    path = folder / CARD
    if is_first and not path.is_file():
        others = sorted(entry.name for entry in folder.iterdir() if _is_of_a_store(entry)) if folder.is_dir() else []
        if others:
            raise DataError(f"{folder}: holds {', '.join(others[:3])} but no {CARD}; give an empty folder as --output-path")
        write_object(path, {**card, "complete": False})
    deadline = time.monotonic() + PATIENCE
    while not path.is_file():
        if time.monotonic() > deadline:
            raise DataError(f"{path}: the first process did not write it in {PATIENCE:.0f} s; did it stop?")
        time.sleep(0.05)
    there = json.loads(path.read_text(encoding="utf-8"))
    different = [f"{name} ({_told(there.get(key))}, now {_told(card[key])})" for key, name in NAMES.items() if there.get(key) != card[key]]
    if different:
        raise DataError(
            f"{folder}: was begun with another {', '.join(different)}; items of both would be mixed: give another --output-path, or "
            "what it was begun with"
        )
    return there


def _is_of_a_store(entry: Path) -> bool:
    """Whether a new store would be mixed up with it or overwrite it, or it is audio: then the folder is that of a dataset."""
    if entry.is_dir():
        return entry.name.isdigit() or (not entry.name.startswith(".") and bool(find_audio_files(entry, LATENT_SUFFIXES)))
    return entry.name in (README, DETAILS) or entry.suffix.lower() in (*AUDIO_EXTENSIONS, *LATENT_SUFFIXES)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(str(value[key]) for key in ("name", "hash", "items") if value.get(key) is not None)
    return json.dumps(value)


def finish_card(folder: Path, card: Mapping[str, Any], entries: Sequence[Mapping[str, Any]]) -> None:
    """Write what came of it into the card, and the same for people into README.md."""
    written = [entry for entry in entries if "frames" in entry]
    skipped = [entry for entry in entries if "skipped" in entry]
    frames = [int(entry["frames"]) for entry in written]
    seconds = sum(frames) * card["downsampling_ratio"] / card["sample_rate"]
    lengths = Counter(1 << max(count - 1, 0).bit_length() for count in frames)
    summary = {
        "items": len(written),
        "skipped": len(skipped),
        "hours": round(seconds / 3600, 4),
        "frames": {"min": min(frames, default=0), "max": max(frames, default=0), "total": sum(frames)},
        "items_up_to_frames": {str(bound): lengths[bound] for bound in sorted(lengths)},
        "skipped_items": [{"path": entry["path"], "why": entry["skipped"]} for entry in skipped[:100]],
    }
    write_object(folder / CARD, {**card, "complete": True, "summary": summary})
    with atomic_path(folder / README) as path:
        path.write_text(_readme(card, summary), encoding="utf-8")


def _readme(card: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    frames = summary["frames"]
    per_second = card["sample_rate"] / card["downsampling_ratio"]
    lines = [
        "# Pre-encoded audio",
        "",
        f"{summary['items']} items, {summary['hours']} hours, as `{card['format']}` files of {card['latent_channels']} channels in "
        f"{card['dtype']}; {summary['skipped']} skipped.",
        "",
        "| | |",
        "|---|---|",
        f"| model | `{card['model']['name']}`, weights `{card['model']['hash']}` |",
        f"| stored | {card['store']}{', padded to whole crops' if card['pad'] else ''} |",
        f"| crop | {card['sample_size']} samples at {card['sample_rate']} Hz, {card['latent_length']} frames |",
        f"| frame | {card['downsampling_ratio']} samples; {per_second:.2f} per second |",
        f"| frames that hold audio | {frames['min']} to {frames['max']} per item, {frames['total']} in all |",
        f"| dataset | `{card['dataset']['name']}`, {card['dataset']['items']} items |",
        "",
        'Train on it with `"dataset_type": "pre_encoded"` in the dataset config and `"pre_encoded": true` in the `training` section of the '
        "model config.",
    ]
    return "\n".join(lines) + "\n"


def write_object(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file at once or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")
