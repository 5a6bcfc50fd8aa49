"""What dataset configs have in common: the entries of their ``datasets`` lists."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from stable_audio_tools.config.base import ListFile, PositiveFloat, Strict
from stable_audio_tools.registry import Mistake


class AudioFolder(Strict):
    """One folder of audio files.

    Attributes:
        id: A name, for people.
        path: The folder; searched with all its sub-folders.
        custom_metadata_module: A Python file with ``get_custom_metadata(info, audio)``.
        captions_file: A CSV table ``path,caption``; without it, ``captions.csv`` in the folder if there is one.
        caption: Caption of files that have no other.
        weight: How often its files are drawn, relative to the files of other folders. If weights differ, each pass draws as many items
            as there are files, with repetition.
        keywords: Only files are used whose name holds one of these words, in any case.
        filelist_path: A list of files to use, relative to the folder; without it, ``filelist.txt`` in the folder if there is one.
        manifest: What is known of the files, from ``sat data scan``; without it, ``manifest.parquet`` in the folder if there is one.
    """

    id: str
    path: str = Field(min_length=1)
    custom_metadata_module: str | None = None
    captions_file: str | None = None
    caption: str | None = None
    weight: PositiveFloat = 1.0
    keywords: list[str] | None = None
    filelist_path: ListFile | None = None
    manifest: str | None = None

    def absent(self, base_dir: Path | None) -> Iterator[Mistake]:
        """Mistakes about files that do not exist on this machine; locations relative to this object."""
        yield from _absent_folder(self.path, base_dir)
        for key in ("custom_metadata_module", "captions_file", "filelist_path", "manifest"):
            yield from absent_file(key, getattr(self, key), base_dir)


class ShardEntry(Strict):
    """Shards (.tar) of a dataset: a folder of them, one, or several as ``{000..099}.tar``; or a list of them, ``index.json``.

    Attributes:
        id: A name, for people.
        path: A folder, or a URL of any kind that fsspec knows.
        s3_path: A URL of S3 or a store that is compatible with it; instead of ``path``.
        profile: Which credentials to use.
        endpoint_url: Server of an S3-compatible store.
        storage_options: Further options of fsspec's file system, such as ``{"anon": true}``.
        custom_metadata_module: A Python file with ``get_custom_metadata(info, audio)``.
        caption: Caption of samples that have no other.
        weight: How often its samples are drawn, relative to those of other entries.
    """

    id: str
    path: str | None = Field(None, min_length=1)
    s3_path: str | None = Field(None, min_length=1)
    profile: str | None = None
    endpoint_url: str | None = None
    storage_options: dict[str, Any] = {}
    custom_metadata_module: str | None = None
    caption: str | None = None
    weight: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _is_somewhere(self) -> ShardEntry:
        if (self.path is None) == (self.s3_path is None):
            raise ValueError("needs path (a folder or any URL) or s3_path, and not both")
        is_s3 = self.s3_path is not None or (self.path or "").startswith(("s3://", "s3a://"))
        if not is_s3 and (self.profile or self.endpoint_url):
            raise ValueError("profile and endpoint_url are for S3; write what other stores need in storage_options")
        return self

    def absent(self, base_dir: Path | None) -> Iterator[Mistake]:
        """Mistakes about files that do not exist on this machine; locations relative to this object."""
        if self.path and "://" not in self.path and "{" not in self.path and not resolve(self.path, base_dir).exists():
            yield Mistake(("path",), f"{resolve(self.path, base_dir)}: no such folder or file")
        yield from absent_file("custom_metadata_module", self.custom_metadata_module, base_dir)


class LatentFolder(Strict):
    """One folder of pre-encoded items, as ``sat pre-encode`` writes it.

    Attributes:
        path: The folder; searched with all its sub-folders.
        id: A name, for people.
        custom_metadata_module: A Python file with ``get_custom_metadata(info, latents)``.
        filelist_path: A text file that names the files to use, one per line, relative to the folder; without it, ``filelist.txt`` in the
            folder if there is one.
        latent_extension: Suffix of the files, if it is not that of the other folders.
        weight: How often its items are drawn, relative to the items of other folders. If weights differ, each pass draws as many items
            as there are, with repetition.
    """

    path: str = Field(min_length=1)
    id: str = ""
    custom_metadata_module: str | None = None
    filelist_path: str | None = None
    latent_extension: str | None = None
    weight: PositiveFloat = 1.0

    def absent(self, base_dir: Path | None) -> Iterator[Mistake]:
        """Mistakes about files that do not exist on this machine; locations relative to this object."""
        yield from _absent_folder(self.path, base_dir)
        for key in ("custom_metadata_module", "filelist_path"):
            yield from absent_file(key, getattr(self, key), base_dir)


def _absent_folder(path: str, base_dir: Path | None) -> Iterator[Mistake]:
    folder = resolve(path, base_dir)
    if not folder.is_dir():
        yield Mistake(("path",), f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")


def absent_file(key: str, path: str | None, base_dir: Path | None) -> Iterator[Mistake]:
    """The mistake that a file named by a config does not exist on this machine, if so."""
    if path and not resolve(path, base_dir).is_file():
        yield Mistake((key,), f"{resolve(path, base_dir)}: no such file")


def resolve(path: str, base_dir: Path | None) -> Path:
    """A path as the user meant it: from where the command runs, or from the config file's folder if it exists only there."""
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists() or base_dir is None or not (base_dir / given).exists():
        return given
    return base_dir / given
