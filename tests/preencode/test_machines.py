"""Which process does what."""

import pytest

from stable_audio_tools.errors import ConfigError, DataError
from stable_audio_tools.preencode.machines import Place, count_devices, find_place, wait_for

SLURM = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_LOCALID": "1"}


@pytest.mark.parametrize(
    ("environment", "place", "is_started"),
    [
        ({}, Place(0, 2, 0), False),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, Place(1, 4, 1), True),
        (SLURM, Place(3, 8, 1), True),
        ({**SLURM, "SLURM_JOB_NAME": "bash"}, Place(0, 2, 0), False),
        ({**SLURM, "RANK": "0", "WORLD_SIZE": "2"}, Place(0, 2, 0), True),
    ],
)
def test_places(environment, place, is_started):
    assert find_place(environment, num_nodes=1, num_devices=2) == (place, is_started)


def test_nodes_without_a_starter_say_which_they_are():
    assert find_place({"NODE_RANK": "1"}, num_nodes=3, num_devices=2) == (Place(2, 6, 0), False)
    with pytest.raises(ConfigError, match="--num-nodes 3: start it with srun or torchrun, or set NODE_RANK on each machine"):
        find_place({}, num_nodes=3, num_devices=1)


def test_variables_that_make_no_sense():
    with pytest.raises(ConfigError, match="torchrun: RANK, WORLD_SIZE and LOCAL_RANK are whole numbers"):
        find_place({"RANK": "x", "WORLD_SIZE": "2"}, num_nodes=1, num_devices=1)
    with pytest.raises(ConfigError, match="torchrun: RANK is 2, but WORLD_SIZE is 2"):
        find_place({"RANK": "2", "WORLD_SIZE": "2"}, num_nodes=1, num_devices=1)


def test_devices():
    assert (count_devices("auto", "cpu"), count_devices("3", "cpu")) == (1, 3)
    for wrong in ("0", "all"):
        with pytest.raises(ConfigError, match=f"--devices '{wrong}': how many devices, or auto"):
            count_devices(wrong, "cpu")


def test_a_process_that_fails_is_named():
    import subprocess
    import sys

    others = [subprocess.Popen([sys.executable, "-c", f"raise SystemExit({code})"]) for code in (0, 3)]
    with pytest.raises(DataError, match=r"^process 2 failed, see above; run the same command again to go on$"):
        wait_for(others)
