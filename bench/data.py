"""Crops per second of `audio_dir`, beside the plain way: decode the whole file with soundfile, resample it whole with a windowed sinc.

    python bench/data.py MUSIC ONESHOTS             all of it, some minutes
    python bench/data.py MUSIC ONESHOTS --quick     a few items of each, for a look

MUSIC is a folder of long pieces, ONESHOTS one of short sounds. Long files are made by joining MUSIC to pieces of 20 minutes. Everything
is delivered as stereo at 48 kHz, by one worker and by two. At the end: memory over 10,000 items, and opening a manifest of 1,000,000 rows.
"""

from __future__ import annotations

import argparse
import math
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch.utils.data import DataLoader, Dataset

from stable_audio_tools.audio import force_channels, normalized_crop, resample
from stable_audio_tools.data.audio_dir import LocalDatasetConfig, SampleDataset
from stable_audio_tools.data.files import find_audio_files
from stable_audio_tools.data.loader import make_loader

RATE = 48000
CASES: tuple[tuple[str, str, float, int, dict[str, Any], float], ...] = (  # name, folder, seconds, items of a batch, options, aim
    ("47 s of music", "music", 47.0, 1, {}, 2.2),
    ("47 s of 20 minutes", "long", 47.0, 1, {}, 10.0),
    ("1.5 s of one-shots", "oneshots", 1.5, 8, {}, 2.0),
    ("... with cache_mb 500", "oneshots", 1.5, 8, {"cache_mb": 500}, 2.0),
)
ZEROS = 6  # of the sinc, on each side: the usual width


def sinc_resample(audio: torch.Tensor, from_rate: int, to_rate: int) -> torch.Tensor:
    """(C, T) -> (C, T'): a Hann-windowed sinc, one filter per phase, as one strided convolution."""
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    if old == new:
        return audio
    cutoff = min(old, new) * 0.99
    width = math.ceil(ZEROS * old / cutoff)
    taps = torch.arange(-width, width + old, dtype=torch.float64) / old
    phases = torch.arange(new, dtype=torch.float64)[:, None] / new
    arguments = ((taps - phases) * cutoff).clamp(-ZEROS, ZEROS)  # (new, taps)
    kernels = (arguments.sinc() * torch.cos(arguments * math.pi / ZEROS / 2).square() * cutoff / old).float()
    padded = torch.nn.functional.pad(audio, (width, width + old))  # (C, T + 2 width + old)
    result = torch.nn.functional.conv1d(padded[:, None], kernels[:, None], stride=old)  # (C, new, steps)
    return result.transpose(1, 2).reshape(audio.shape[0], -1)[:, : math.ceil(audio.shape[1] * new / old)]  # (C, T')


class WholeFiles(Dataset[Any]):
    """The plain way."""

    def __init__(self, folder: Path, sample_size: int) -> None:
        self.files = find_audio_files(folder)
        self.sample_size = sample_size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        samples, rate = soundfile.read(self.files[index], dtype="float32", always_2d=True)
        audio = sinc_resample(torch.from_numpy(np.ascontiguousarray(samples.T)), rate, RATE)
        crop = normalized_crop(audio, self.sample_size, RATE, randomize=True)
        return force_channels(crop.audio.clamp(-1, 1), 2)


def ours(folder: Path, sample_size: int, **options: Any) -> SampleDataset:
    return SampleDataset([LocalDatasetConfig("bench", str(folder))], sample_size, RATE, **options)


def endless(make_batches: Callable[[], Any]) -> Iterator[Any]:
    while True:
        yield from make_batches()


def rate_of(batches: Iterator[Any], batch_size: int, seconds: float) -> float:
    """Items per second, after two batches to warm up."""
    for _ in range(2):
        next(batches)
    began, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < seconds:
        next(batches)
        count += batch_size
    return count / spent


def plain_loader(folder: Path, size: int, batch_size: int, workers: int) -> Iterator[Any]:
    data = WholeFiles(folder, size)
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(data, batch_size, shuffle=True, drop_last=True, generator=generator, num_workers=workers, persistent_workers=True)
    return endless(lambda: iter(loader))


def our_loader(data: SampleDataset, batch_size: int, workers: int) -> Iterator[Any]:
    loader = make_loader(data, batch_size=batch_size, num_workers=workers, shuffle=True, drop_last=True, seed=0)
    return endless(lambda: iter(loader))


def compare(folders: dict[str, Path], seconds: float) -> None:
    print(f"{'':22}{'workers':>8}{'ours':>10}{'plain':>10}{'ratio':>8}{'aim':>6}    items per second")
    for name, key, length, batch_size, options, aim in CASES:
        for workers in (1, 2):
            size = int(length * RATE)
            mine = rate_of(our_loader(ours(folders[key], size, **options), batch_size, workers), batch_size, seconds)
            plain = rate_of(plain_loader(folders[key], size, batch_size, workers), batch_size, seconds)
            print(f"{name:22}{workers:8}{mine:10.2f}{plain:10.2f}{mine / plain:7.2f}x{aim:5}x", flush=True)


def join_music(folder: Path, target: Path, minutes: float, count: int) -> Path:
    """FLAC files of ``minutes``, of the music of a folder, one piece after the other."""
    target.mkdir()
    files = find_audio_files(folder)
    pieces = endless(lambda: iter(files))
    for number in range(count):
        left = int(minutes * 60 * 44100)
        with soundfile.SoundFile(target / f"{number}.flac", "w", 44100, 2) as output:
            while left > 0:
                samples, rate = soundfile.read(next(pieces), dtype="float32", always_2d=True)
                audio = force_channels(resample(torch.from_numpy(np.ascontiguousarray(samples.T)), rate, 44100), 2).clamp(-1, 1)
                output.write(audio[:, :left].T.numpy())
                left -= audio.shape[1]
    return target


def resident_mb() -> float:
    text = Path("/proc/self/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


def memory(folder: Path, count: int) -> None:
    """Resident memory of a process that draws ``count`` items of 1.5 s, at each tenth of them."""
    data = ours(folder, int(1.5 * RATE))
    random.seed(0)
    at = []
    for number in range(count):
        data[random.randrange(len(data))]
        if (number + 1) % max(1, count // 10) == 0:
            at.append(resident_mb())
    print(f"memory over {count} items, MB: {', '.join(f'{value:.0f}' for value in at)}; growth after the first tenth {at[-1] - at[0]:+.1f}")


def manifest(folder: Path, count: int) -> None:
    import pyarrow as pa

    from stable_audio_tools.data.manifest import Manifest, schema, write_table

    names = sorted((f"{index % 100:02}/track_{index:07}.mp3" for index in range(count)), key=lambda name: name.split("/"))
    values = {"path": pa.array(names), "num_frames": pa.array([44100] * count), "sample_rate": pa.array([44100] * count, pa.int32())}
    columns = [values.get(field.name, pa.nulls(count, field.type)) for field in schema()]
    path = folder / "manifest.parquet"
    write_table(pa.Table.from_arrays(columns, schema=schema()), path)
    began = time.perf_counter()
    Manifest(path)
    first = time.perf_counter() - began
    began = time.perf_counter()
    opened = Manifest(path)
    print(f"manifest of {len(opened)} rows: mapped in {first:.2f} s once, opened in {time.perf_counter() - began:.4f} s by each worker")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("music", type=Path)
    parser.add_argument("oneshots", type=Path)
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        long = join_music(given.music, Path(scratch, "long"), *((20, 1) if given.quick else (20, 3)))
        compare({"music": given.music, "long": long, "oneshots": given.oneshots}, 2 if given.quick else 30)
        memory(given.oneshots, 500 if given.quick else 10_000)
        manifest(Path(scratch), 10_000 if given.quick else 1_000_000)


if __name__ == "__main__":
    main()
