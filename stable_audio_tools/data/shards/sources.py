"""What can be packed into shards: folders of audio, and folders of latents."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from stable_audio_tools.audio import load, probe
from stable_audio_tools.data.files import filelist_of, find_audio_files, find_audio_names, read_filelist
from stable_audio_tools.data.latent_file import LATENT_SUFFIXES, decode_latents, metadata_beside, real_frames
from stable_audio_tools.data.latent_store import find_latents, listed_latents
from stable_audio_tools.data.metadata import Captions, MetadataModule
from stable_audio_tools.data.shards.prompts import stored
from stable_audio_tools.data.store_facts import CARD, CONDITIONS, DETAILS, SILENCE
from stable_audio_tools.errors import DataError


class Content(NamedTuple):
    """What a sample is made of.

    Attributes:
        members: Extension -> content, or the file that has it.
        length: How long it is, as an entry of a journal says it.
    """

    members: dict[str, bytes | Path]
    length: Mapping[str, Any]


class AudioSource:
    """Audio files, each with what is known of it: captions, sidecar files, the result of a metadata module.

    Args:
        folder: The folder.
        caption: Caption of files that have no other.
        captions_file: A CSV table ``path,caption``.
        module: A Python file with ``get_custom_metadata(info, audio)``.
        filelist: A list of the files to use, relative to the folder; None is ``filelist.txt`` in it, or all files.

    Raises:
        DataError: If there are no audio files, or a file beside them is wrong.
    """

    def __init__(
        self,
        folder: Path,
        caption: str | None = None,
        captions_file: Path | None = None,
        module: Path | None = None,
        filelist: Path | None = None,
    ) -> None:
        self.folder = folder
        self.captions = Captions(folder, table=captions_file, caption=caption)
        listed = filelist_of(folder, filelist)
        names = find_audio_names(folder) if listed is None else read_filelist(listed)
        self.paths: Sequence[Path] = [folder / name for name in self.captions.select(names)]
        if not self.paths:
            raise DataError(f"{folder}: holds no audio files and no latents, so there is nothing to pack")
        self.module = MetadataModule(module) if module is not None else None
        if self.module is not None:
            self.module.load()  # its mistakes are found now

    def content(self, path: Path) -> Content | None:
        """The file, and its metadata with where it was.

        Raises:
            AudioError: If it cannot be decoded.
            DataError: If the metadata cannot be kept as JSON.
        """
        relpath = path.relative_to(self.folder).as_posix()
        info = probe(path)
        metadata = self.captions(path)
        if self.module is not None:
            audio = load(path)
            known = {"path": str(path), "relpath": relpath, "sample_rate": audio.sample_rate}
            known["seconds_total"] = -(-audio.samples.shape[-1] // audio.sample_rate)
            metadata |= self.module({**known, **metadata}, audio.samples)
        if metadata.pop("__reject__", False):
            return None
        members: dict[str, bytes | Path] = {path.suffix[1:].lower(): path, "json": _as_json(path, {**metadata, "relpath": relpath})}
        return Content(members, {"frames": info.num_frames, "sample_rate": info.sample_rate})

    def extras(self) -> dict[str, Path]:
        """None."""
        return {}


def _as_json(path: Path, metadata: dict[str, Any]) -> bytes:
    for key, value in metadata.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{path}: metadata {key!r} is {type(value).__name__}, which JSON cannot hold ({error}); let the metadata module run in "
                "training instead, as custom_metadata_module of the dataset"
            ) from error
    return json.dumps(stored(metadata), ensure_ascii=False).encode()


class LatentSource:
    """Latents as ``sat pre-encode`` writes them: ``<name>.npy`` or ``<name>.safetensors`` with ``<name>.json``.

    Args:
        folder: The folder.
        filelist: A list of the files to use, relative to the folder; None is ``filelist.txt`` in it, or all files.

    Raises:
        DataError: If latents have no metadata beside them, or the list names files that are not there.
    """

    def __init__(self, folder: Path, filelist: Path | None = None) -> None:
        self.folder = folder
        self.paths: Sequence[Path] = listed_latents(folder, filelist) or find_latents(folder)
        lacking = [path for path in self.paths if not path.with_suffix(".json").is_file()]
        if lacking:
            raise DataError(f"{lacking[0].with_suffix('.json')}: no such file; {len(lacking)} of {len(self.paths)} latents have none")
        kinds = sorted({path.suffix for path in self.paths})
        if len(kinds) > 1:
            raise DataError(f"{folder}: holds {' and '.join(kinds)} files; are they the same latents twice? Keep those of one kind")

    @staticmethod
    def is_one(folder: Path) -> bool:
        """Whether a folder holds latents and no audio."""
        return not find_audio_files(folder) and bool(find_latents(folder))

    def content(self, path: Path) -> Content:
        """Both files.

        Raises:
            UnreadableError: If they cannot be read, or do not hold what they should.
        """
        latents, metadata = decode_latents(path, str(path)), metadata_beside(path)
        length = {"frames": real_frames(metadata.get("padding_mask")) or latents.shape[-1]}
        length |= {key: metadata[key] for key in ("seconds_total",) if key in metadata}
        kept = stored(metadata)
        return Content(
            {path.suffix[1:]: path, "json": path.with_suffix(".json") if kept == metadata else json.dumps(kept).encode()}, length
        )

    def extras(self) -> dict[str, Path]:
        """What is said of all latents: the card, the latents of silence, cached texts."""
        named = [self.folder / name for name in (CARD, DETAILS, *(f"{SILENCE}{suffix}" for suffix in LATENT_SUFFIXES))]
        cached = sorted((self.folder / CONDITIONS).rglob("*.safetensors"))
        return {path.relative_to(self.folder).as_posix(): path for path in [*named, *cached] if path.is_file()}
