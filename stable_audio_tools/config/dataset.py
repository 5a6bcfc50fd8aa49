"""What dataset configs have in common: the entries of their ``datasets`` lists."""

from __future__ import annotations

from pydantic import Field

from stable_audio_tools.config.base import Strict


class AudioFolder(Strict):
    """One folder of audio files.

    Attributes:
        id: A name, for people.
        path: The folder; searched with all its sub-folders.
        custom_metadata_module: A Python file with ``get_custom_metadata(info, audio)``.
        captions_file: A CSV table ``path,caption``; without it, ``captions.csv`` in the folder if there is one.
        caption: Caption of files that have no other.
    """

    id: str
    path: str = Field(min_length=1)
    custom_metadata_module: str | None = None
    captions_file: str | None = None
    caption: str | None = None
