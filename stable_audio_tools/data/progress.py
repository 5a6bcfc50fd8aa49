"""Progress: how far a command is that goes through many files."""

from __future__ import annotations

from dataclasses import dataclass

from stable_audio_tools.errors import counted


@dataclass(frozen=True)
class Progress:
    """How far it has got.

    Attributes:
        num_done: Files that are done, now or by an earlier run.
        num_files: How many there are.
        num_read: Of those that are done, by this run.
        seconds: Since it began.
    """

    num_done: int
    num_files: int
    num_read: int
    seconds: float

    @property
    def seconds_left(self) -> float:
        """At the rate so far."""
        return (self.num_files - self.num_done) * self.seconds / max(self.num_read, 1)

    @property
    def time_left(self) -> str:
        """The same in hours, minutes and seconds: ``0:02:50``."""
        left = int(self.seconds_left)
        return f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02}"


@dataclass(frozen=True)
class FilesProgress(Progress):
    """The same of a command whose time depends on how large files are.

    Attributes:
        num_bytes: Bytes that this run has read.
    """

    num_bytes: int

    def __str__(self) -> str:
        seconds = max(self.seconds, 1e-3)
        rate = f"{max(1, self.num_read) / seconds:.0f} files/s, {self.num_bytes / seconds / 1e6:.0f} MB/s"
        return f"{self.num_done} of {counted(self.num_files, 'file')}, {rate}, {self.time_left} left"
