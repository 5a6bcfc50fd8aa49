"""LatentStore: a folder of latents with one JSON file of metadata each, as ``sat pre-encode`` and scripts like it write them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from stable_audio_tools.audio import AUDIO_EXTENSIONS
from stable_audio_tools.data.files import find_audio_files
from stable_audio_tools.errors import DataError

CARD, DETAILS, JOURNAL, SILENCE, CONDITIONS = "card.json", "details.json", "journal.jsonl", "silence", "conditions"
TENSOR = "latents"  # name of the one tensor in a safetensors file
NUM_READERS = 16  # threads: reading many small files is waiting for them


class LatentStore:
    """The files of one folder, sorted by path.

    Args:
        folder: The folder.
        extension: ``npy`` or ``safetensors``; None is what the folder's card says, or ``npy``.
        filelist: Names the files, one per line; None is ``filelist.txt`` in the folder if there is one, and all files if not.

    Raises:
        DataError: If it holds no latents.
    """

    def __init__(self, folder: Path, extension: str | None = None, filelist: Path | None = None) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: {'not a folder' if folder.exists() else 'no such folder'}; 'path' is a folder of pre-encoded items")
        self.folder = folder
        self.card = _read_object(folder / CARD) if (folder / CARD).is_file() else {}
        if extension is None and self.card.get("format") == "wds":
            raise DataError(f'{folder}: holds WebDataset shards; use "dataset_type": "wds" with "pre_encoded": true')
        self.extension = (extension or self.card.get("format") or "npy").removeprefix(".")
        if self.extension not in ("npy", "safetensors"):
            raise DataError(f"{folder}: latent_extension is 'npy' or 'safetensors', got {self.extension!r}")
        self.paths = self._listed(filelist) or self._found()

    def _listed(self, filelist: Path | None) -> list[Path]:
        table = filelist or self.folder / "filelist.txt"
        if filelist is None and not table.is_file():
            return []
        try:
            lines = [line.strip() for line in table.read_text(encoding="utf-8-sig").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{table}: cannot be read as a list of files: {error}") from error
        paths = [self.folder / line for line in lines if line]
        absent = [str(path) for path in paths if not path.is_file()]
        if absent or not paths:
            what = f"names {len(absent)} of {len(paths)} files that do not exist ({', '.join(absent[:3])})" if paths else "names no files"
            raise DataError(f"{table}: {what}; its lines are paths relative to {self.folder}")
        return paths

    def _found(self) -> list[Path]:
        suffix = f".{self.extension}"
        paths = [
            path
            for path in find_audio_files(self.folder, [suffix])
            if path.stem != SILENCE and CONDITIONS not in path.relative_to(self.folder).parts
        ]
        if paths:
            return paths
        for other, hint in ((".npy", '"latent_extension": "npy"'), (".safetensors", '"latent_extension": "safetensors"')):
            if other != suffix and find_audio_files(self.folder, [other]):
                raise DataError(f"{self.folder}: holds no {suffix} files, but {other} files; set {hint}")
        if find_audio_files(self.folder, AUDIO_EXTENSIONS):
            raise DataError(f'{self.folder}: holds audio and no latents; use "dataset_type": "audio_dir", or encode it with sat pre-encode')
        raise DataError(f"{self.folder}: holds no {suffix} files; did sat pre-encode write there?")

    # ---- what one file holds ------------------------------------------------------------------------------------------------------

    def latents(self, path: Path) -> Tensor:
        """Latents (D, L) in float32, or tokens (K, L).

        Raises:
            DataError: If the file cannot be read, or holds something else.
        """
        try:
            tensor = load_file(path)[TENSOR] if path.suffix == ".safetensors" else torch.from_numpy(np.load(path))
        except (OSError, ValueError, EOFError, TypeError, KeyError, SafetensorError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else f"no whole {path.suffix} file of numbers"
            raise DataError(f"{path}: cannot be read as latents: {reason}") from error
        tensor = tensor[0] if tensor.dim() == 3 and tensor.shape[0] == 1 else tensor
        if tensor.dim() != 2 or tensor.shape[-1] == 0:
            raise DataError(f"{path}: latents are (channels, frames), got shape {tuple(tensor.shape)}")
        return tensor.float() if tensor.is_floating_point() else tensor

    def metadata(self, path: Path) -> dict[str, Any]:
        """What the JSON file beside a file says.

        Raises:
            DataError: If there is none, or it holds no object.
        """
        return _read_object(path.with_suffix(".json"))

    def all_metadata(self) -> list[dict[str, Any]]:
        """The metadata of all files, in their order."""
        with ThreadPoolExecutor(NUM_READERS) as readers:
            return list(readers.map(self.metadata, self.paths))

    def real_lengths(self) -> list[int]:
        """Frames of each file that are not padding, from the journals if there are any."""
        known: dict[str, int] = {}
        for journal in sorted(self.folder.glob(f"*/{JOURNAL}")):
            known |= {str(entry["id"]): entry["frames"] for entry in read_journal(journal) if "frames" in entry}
        if all(path.stem in known for path in self.paths):
            return [known[path.stem] for path in self.paths]
        return [real_frames(metadata.get("padding_mask")) or self.latents(path).shape[-1]
                for path, metadata in zip(self.paths, self.all_metadata(), strict=True)]  # fmt: skip

    # ---- what all of them have in common ------------------------------------------------------------------------------------------

    @cached_property
    def sample_size(self) -> int | None:
        """Samples of audio in a whole crop; None if nobody wrote it down."""
        if "sample_size" in self.card:
            return int(self.card["sample_size"])
        details = _read_object(self.folder / DETAILS) if (self.folder / DETAILS).is_file() else {}
        value = details.get("sample_size")
        return value if isinstance(value, int) else None

    @cached_property
    def channels(self) -> int:
        """D, or 2 D where mean and scale are stored, from the card or the first file that can be read.

        Raises:
            DataError: If none can.
        """
        if isinstance(self.card.get("latent_channels"), int):
            return self.card["latent_channels"]
        for path in self.paths[:-1]:
            with suppress(DataError):
                return self.latents(path).shape[0]
        return self.latents(self.paths[-1]).shape[0]

    @cached_property
    def silence(self) -> Tensor | None:
        """What silence is encoded to, (D, L); None if the folder does not say."""
        path = self.folder / f"{SILENCE}.{self.extension}"
        return self.latents(path) if path.is_file() else None

    def condition(self, name: str, text: str) -> Tensor:
        """The cached embedding (S, D) of a text.

        Raises:
            DataError: If it was not cached.
        """
        path = self.folder / condition_path(name, text)
        if not path.is_file():
            raise DataError(f"{path}: no such file: {name} {text!r:.60} was not cached; run sat pre-encode with --cache-conditions {name}")
        return load_file(path)["embedding"].float()


def condition_path(name: str, text: str) -> Path:
    """Where in a store the embedding of a text is, by the condition's name: texts that occur often are kept once."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Path(CONDITIONS) / name / digest[:2] / f"{digest[:24]}.safetensors"


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The entries of a journal. A last line that a killed process left half-written does not count."""
    entries: list[dict[str, Any]] = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines[:-1], start=1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{number}: not valid JSON; was it edited?") from error
    return entries


def real_frames(mask: Any) -> int | None:
    """Frames up to the last that is not padding; None if there is no mask."""
    if mask is None:
        return None
    values = np.asarray(mask).reshape(-1)
    ones = np.flatnonzero(values)
    return int(ones[-1]) + 1 if len(ones) else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; each file of latents has a JSON file beside it") from error
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise DataError(f"{path}: holds {type(value).__name__}, not an object")
    return dict(value)
