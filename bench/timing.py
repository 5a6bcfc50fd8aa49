"""Median time of a function, and one line that compares two."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def median_ms(function: Callable[[], object], *, repeats: int = 15) -> float:
    """Median wall time in milliseconds, after two runs that do not count."""
    function()
    function()
    times: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e3


def compare(name: str, ours: Callable[[], object], other_name: str, other: Callable[[], object]) -> None:
    """Print both medians, measured in the same run, and their ratio."""
    a, b = median_ms(ours), median_ms(other)
    print(f"{name:48} {a:8.2f} ms   {other_name:28} {b:8.2f} ms   {b / a:5.2f}x")
