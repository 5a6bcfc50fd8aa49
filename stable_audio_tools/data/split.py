"""Split: divide the files of a dataset into sets that have nothing in common."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_audio_tools.data.names import path_order
from stable_audio_tools.errors import DataError, counted

GroupOf = Callable[[str], str]


def split(rows: Sequence[Mapping[str, Any]], shares: Mapping[str, float], *, group_of: GroupOf, seed: int = 0) -> dict[str, list[str]]:
    """Divide files so that no group, and no content, is in two sets. The same files and seed give the same sets.

    Groups with a file in common, by its content, stay together. Sets are filled with whole groups, in an order drawn from the seed, each
    group going where most is lacking; so sets are as large as asked, give or take a group.

    Args:
        rows: Of a manifest. Files that cannot be decoded are left out.
        shares: How large each set is to be, as a part of 1.
        group_of: Name of a file's group.
        seed: Of the order.

    Returns:
        Paths by set, sorted.

    Raises:
        DataError: If shares are no parts of 1, or there are fewer groups than sets.
    """
    if not all(share > 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        given = ", ".join(f"{name} {share:g}" for name, share in shares.items())
        raise DataError(f"shares must be above 0 and sum to 1, got {given}")
    groups = _groups([row for row in rows if row["error"] is None], group_of)
    if len(groups) < len(shares):
        raise DataError(f"{counted(len(groups), 'group')} of files cannot be divided into {len(shares)} sets ({', '.join(shares)})")
    total = sum(len(paths) for paths in groups.values())
    sets: dict[str, list[str]] = {name: [] for name in shares}
    for group in _order(groups, seed):
        lacking = {name: share * total - len(sets[name]) for name, share in shares.items()}
        sets[max(lacking, key=lacking.__getitem__)] += groups[group]
    empty = [name for name, paths in sets.items() if not paths]
    if empty:
        raise DataError(f"nothing is left for {', '.join(empty)}: {len(groups)} groups of {total} files are too coarse for these shares")
    return {name: sorted(paths, key=path_order) for name, paths in sets.items()}


def by_file(path: str) -> str:
    """Every file is a group of its own."""
    return path


def by_folder(path: str) -> str:
    """Files of one folder are a group; those of a folder below it are another."""
    return path.rpartition("/")[0]


def by_regex(pattern: str) -> GroupOf:
    """What a pattern finds in the path names the group: its first pair of brackets, or all of it.

    Raises:
        DataError: If it is no regular expression; when it is used, if it finds nothing in a path.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"{pattern!r} is not a regular expression: {error}") from error

    def group(path: str) -> str:
        found = compiled.search(path)
        if found is None:
            raise DataError(f"{path}: {pattern!r} finds nothing in it, so it belongs to no group")
        return found.group(1 if compiled.groups else 0) or ""

    return group


def by_metadata(key: str, metadata_of: Callable[[str], Mapping[str, Any]]) -> GroupOf:
    """The value of a metadata key names the group.

    Raises:
        DataError: When it is used, if a file has no such key.
    """

    def group(path: str) -> str:
        metadata = metadata_of(path)
        if key not in metadata:
            known = ", ".join(sorted(metadata)) or "no metadata at all"
            raise DataError(f"{path}: has no metadata {key!r}, so it belongs to no group; it has {known}")
        return str(metadata[key])

    return group


def write_lists(sets: Mapping[str, Sequence[str]], folder: Path) -> list[Path]:
    """Write one list of paths per set, as ``filelist_path`` of a dataset takes it."""
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    for name, paths in sets.items():
        written.append(folder / f"{name}.txt")
        written[-1].write_text("".join(f"{path}\n" for path in paths), encoding="utf-8", newline="\n")
    return written


def _groups(rows: Sequence[Mapping[str, Any]], group_of: GroupOf) -> dict[str, list[str]]:
    """Paths by group; groups that share content are one."""
    parents: dict[str, str] = {}

    def root(node: str) -> str:
        parents.setdefault(node, node)
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for row in rows:
        group, content = root(f"group {group_of(row['path'])}"), root(f"content {row['sha256']}")
        parents[max(group, content)] = min(group, content)
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for row in rows:
        groups[root(f"content {row['sha256']}")].append(row["path"])
    return {min(paths): paths for paths in groups.values()}


def _order(groups: Mapping[str, Sequence[str]], seed: int) -> list[str]:
    """Groups by a hash of the seed and their name; the largest first, which no set would have room for at the end."""

    def key(name: str) -> tuple[int, bytes]:
        return -len(groups[name]), hashlib.sha256(f"{seed}/{name}".encode()).digest()

    return sorted(groups, key=key)
