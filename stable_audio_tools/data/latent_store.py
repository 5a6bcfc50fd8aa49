"""LatentStore: a folder of latents with one JSON file of metadata each, as ``sat pre-encode`` and scripts like it write them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from stable_audio_tools.audio import AUDIO_EXTENSIONS
from stable_audio_tools.data.files import filelist_of, find_audio_files, read_filelist
from stable_audio_tools.data.latent_file import LATENT_SUFFIXES
from stable_audio_tools.data.store_facts import CONDITIONS, JOURNAL, SILENCE, StoreFacts, parse_journal
from stable_audio_tools.errors import DataError


class LatentStore(StoreFacts):
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
        super().__init__(str(folder), partial(_read_beside, folder))
        self.folder = folder
        if extension is None and self.card.get("format") == "wds":
            raise DataError(f'{folder}: holds WebDataset shards; use "dataset_type": "wds" with "pre_encoded": true')
        self.extension = (extension or self.card.get("format") or "npy").removeprefix(".")
        if f".{self.extension}" not in LATENT_SUFFIXES:
            raise DataError(f"{folder}: latent_extension is 'npy' or 'safetensors', got {self.extension!r}")
        self.paths = listed_latents(folder, filelist) or self._found()

    def _found(self) -> list[Path]:
        suffix = f".{self.extension}"
        paths = find_latents(self.folder, [suffix])
        if paths:
            return paths
        for other in LATENT_SUFFIXES:
            if other != suffix and find_audio_files(self.folder, [other]):
                hint = f'"latent_extension": "{other[1:]}"'
                raise DataError(f"{self.folder}: holds no {suffix} files, but {other} files; set {hint}")
        if find_audio_files(self.folder, [".tar"]):
            raise DataError(f'{self.folder}: holds WebDataset shards; use "dataset_type": "wds" with "pre_encoded": true')
        if find_audio_files(self.folder, AUDIO_EXTENSIONS):
            raise DataError(f'{self.folder}: holds audio and no latents; use "dataset_type": "audio_dir", or encode it with sat pre-encode')
        raise DataError(f"{self.folder}: holds no {suffix} files; did sat pre-encode write there?")

    def said(self) -> dict[str, dict[str, Any]]:
        """What journals say of each file, by its name without suffix: ``frames`` that hold audio, ``seconds_total``."""
        journals = sorted(self.folder.glob(f"*/{JOURNAL}"))
        return {str(entry["id"]): entry for journal in journals for entry in read_journal(journal) if "frames" in entry}


def listed_latents(folder: Path, filelist: Path | None = None) -> list[Path] | None:
    """The items of a store that a list names, each once; None if there is no list.

    Args:
        folder: The store.
        filelist: The list; None is ``filelist.txt`` in the folder, if there is one.

    Raises:
        DataError: If it names nothing, files that do not exist, or something outside the folder.
    """
    table = filelist_of(folder, filelist)
    if table is None:
        return None
    paths = [folder / name for name in read_filelist(table)]
    if absent := [str(path) for path in paths if not path.is_file()]:
        what = f"names {len(absent)} of {len(paths)} files that do not exist ({', '.join(absent[:3])})"
        raise DataError(f"{table}: {what}; its lines are paths relative to {folder}")
    return paths


def find_latents(folder: Path, suffixes: Iterable[str] = LATENT_SUFFIXES) -> list[Path]:
    """The items among the files of a store, sorted by path: not what silence is encoded to, and no cached texts."""
    return [
        path for path in find_audio_files(folder, suffixes) if path.stem != SILENCE and CONDITIONS not in path.relative_to(folder).parts
    ]


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The entries of a journal, see `parse_journal`."""
    return parse_journal(path.read_text(encoding="utf-8"), str(path))


def _read_beside(folder: Path, name: str) -> bytes | None:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"{folder / name}: cannot be read: {error.strerror}") from error
