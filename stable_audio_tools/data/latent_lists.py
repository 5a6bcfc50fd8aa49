"""Lists of paths for folders of latents: an entry means the latents, or the audio that they were made of."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from stable_audio_tools.data.files import PathList, roots_of
from stable_audio_tools.data.latent_file import metadata_beside
from stable_audio_tools.data.latent_store import LatentStore
from stable_audio_tools.errors import DataError

logger = logging.getLogger(__name__)


def choose_latents(stores: Sequence[LatentStore], exclude: PathList | None, include: PathList | None) -> None:
    """Use only the latents that the lists allow, and say how many are left out.

    Raises:
        DataError: If none is left.
    """
    if include is not None:
        include.refuse_empty()
    for paths, is_wanted in ((exclude, False), (include, True)):
        if paths is None:
            continue
        for store in stores:
            kept = [path for path in store.paths if _means(paths, store, path) == is_wanted]
            which = "not in" if is_wanted else "in"
            logger.info("%s: left out %d items that are %s %s", store.folder, len(store.paths) - len(kept), which, paths.file)
            store.paths = kept
        paths.say_what_is_unused()
    if not any(store.paths for store in stores):
        raise DataError(f"no latents in {', '.join(str(store.folder) for store in stores)}: all are left out by lists")


def _means(paths: PathList, store: LatentStore, path: Path) -> bool:
    if paths.means(path.relative_to(store.folder).as_posix(), roots_of(store.folder)):
        return True
    with suppress(DataError):  # to be told when the item is read
        metadata = metadata_beside(path)
        audio, name = str(metadata.get("path", "")).replace("\\", "/"), metadata.get("relpath")
        return isinstance(name, str) and paths.means(name, {audio.removesuffix(f"/{name}")})
    return False
