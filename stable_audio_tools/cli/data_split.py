"""``sat data split``: sets for training and validation that have nothing in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from stable_audio_tools.cli.progress import FilesLine
from stable_audio_tools.errors import counted


def split(
    folder: Annotated[Path, typer.Argument(help="A folder of audio files.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the lists; by default 'splits' in the folder.")] = None,
    val: Annotated[float, typer.Option(min=0, max=1, help="Share of the files for validation.")] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=1, help="Share of the files for testing.")] = 0.0,
    by: Annotated[str, typer.Option(help="What stays together: 'file', 'folder', or a metadata key such as 'artist'.")] = "file",
    by_regex: Annotated[
        str | None, typer.Option(help="What stays together: files for which this pattern finds the same (its first group) in the path.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed is another split.")] = 0,
) -> None:
    """Write train.txt, val.txt and test.txt: lists of files for "filelist_path" of a dataset config.

    Exact duplicates stay together, whatever their names. The same files and seed give the same lists.
    """
    from stable_audio_tools.data import split as splitting
    from stable_audio_tools.data.file_sets import file_sets
    from stable_audio_tools.data.files import refuse_no_folder
    from stable_audio_tools.errors import DataError

    if by != "file" and by_regex is not None:
        raise DataError("--by and --by-regex both say what stays together: give one of them")
    if val + test >= 1:
        raise DataError(f"--val {val:g} and --test {test:g} leave nothing to train on; together they must be below 1")
    refuse_no_folder(folder)
    shares = {"train": 1 - val - test, "val": val, "test": test}
    with FilesLine() as progress:
        (files,) = file_sets(folder, on_progress=progress)
    if by_regex is not None:
        group_of = splitting.by_regex(by_regex)
    elif by in ("file", "folder"):
        group_of = splitting.by_file if by == "file" else splitting.by_folder
    else:
        group_of = splitting.by_metadata(by, lambda name: files.captions.source(name)[1])
    rows = list(files.rows)
    sets = splitting.split(rows, {name: share for name, share in shares.items() if share}, group_of=group_of, seed=seed)
    target = output or folder / "splits"
    for path, names in zip(splitting.write_lists(sets, target), sets.values(), strict=True):
        print(f"{path}: {counted(len(names), 'file')}")
    for name in sorted(shares.keys() - sets.keys()):
        if (target / f"{name}.txt").is_file():
            print(f"note: {target / name}.txt is of an earlier split and may name the same files; delete it if it is not used")
    num_bad = sum(row["error"] is not None for row in rows)
    if num_bad:
        print(f"left out: {counted(num_bad, 'file')} that cannot be decoded; 'sat data lint' says which and why")
