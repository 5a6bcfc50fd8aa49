"""Which part of the work is this process's, and starting processes for the other devices of this machine.

Processes do not talk to each other: who does which group of items follows from the number of processes alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import NamedTuple

import torch

from stable_audio_tools.errors import ConfigError, DataError


class Place(NamedTuple):
    """This process among all.

    Attributes:
        rank: Its number.
        world: How many there are.
        local_rank: Its number on this machine; the device that it takes.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0


STARTERS = (  # variables of the rank, the number of processes, and the rank on this machine
    ("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("Slurm", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
)


def find_place(environment: Mapping[str, str], *, num_nodes: int, num_devices: int) -> tuple[Place, bool]:
    """This process's place, and whether somebody else has started the other processes.

    Args:
        environment: Variables.
        num_nodes: Machines.
        num_devices: Devices of this machine, where nobody else starts processes.

    Raises:
        ConfigError: If the variables make no sense, or there are machines and nothing says which this one is.
    """
    for starter, rank, world, local in STARTERS:
        if starter == "Slurm" and environment.get("SLURM_JOB_NAME") in ("bash", "interactive"):
            continue  # a shell in a job, not a step that srun started
        if rank in environment and world in environment:
            try:
                place = Place(int(environment[rank]), int(environment[world]), int(environment.get(local, 0)))
            except ValueError as error:
                raise ConfigError(f"{starter}: {rank}, {world} and {local} are whole numbers: {error}") from error
            if not 0 <= place.rank < place.world:
                raise ConfigError(f"{starter}: {rank} is {place.rank}, but {world} is {place.world}")
            return place, True
    if num_nodes == 1:
        return Place(0, num_devices, 0), False
    if "NODE_RANK" not in environment:
        raise ConfigError(f"--num-nodes {num_nodes}: start it with srun or torchrun, or set NODE_RANK on each machine")
    node = int(environment["NODE_RANK"])
    return Place(node * num_devices, num_nodes * num_devices, 0), False


def count_devices(asked: str, device: str) -> int:
    """How many processes this machine gets: ``auto`` is one per GPU, or one.

    Raises:
        ConfigError: If ``asked`` is no number, or more than there are GPUs.
    """
    has_gpus = device in ("auto", "cuda") and torch.cuda.is_available()
    if asked == "auto":
        return torch.cuda.device_count() if has_gpus else 1
    if not asked.isdigit() or int(asked) < 1:
        raise ConfigError(f"--devices {asked!r}: how many devices, or auto")
    if has_gpus and int(asked) > torch.cuda.device_count():
        raise ConfigError(f"--devices {asked}: this machine has {torch.cuda.device_count()}")
    return int(asked)


def start_others(place: Place, num_devices: int) -> list[subprocess.Popen[bytes]]:
    """Start the same command once for each other device of this machine."""
    command = [sys.executable, *sys.orig_argv[1:]]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, "RANK": str(place.rank + local), "WORLD_SIZE": str(place.world), "LOCAL_RANK": str(local)},
        )
        for local in range(1, num_devices)
    ]


def wait_for(others: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the processes of `start_others`.

    Raises:
        DataError: If one failed.
    """
    failed = [str(number) for number, process in enumerate(others, start=1) if process.wait() != 0]
    if failed:
        raise DataError(f"process {', '.join(failed)} failed, see above; run the same command again to go on")


def stop(others: list[subprocess.Popen[bytes]]) -> None:
    """Stop those that still run."""
    for process in others:
        if process.poll() is None:
            process.terminate()
    for process in others:
        process.wait()
