"""One process or several: what the environment of a TPU or of a launcher says."""

import subprocess
import sys

import pytest

from ldm_jax.commands.hosts import is_alone

KAGGLE = {
    "TPU_PROCESS_ADDRESSES": "local",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
}


@pytest.mark.parametrize(
    "environment, alone",
    [
        ({}, False),  # then JAX looks for other processes
        (KAGGLE, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, True),
        ({"TPU_WORKER_HOSTNAMES": "t1v-n-0"}, True),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a", "TPU_PROCESS_ADDRESSES": "a:1,b:1"}, False),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, False),
        (KAGGLE | {"MEGASCALE_NUM_SLICES": "1"}, True),
        ({"TPU_PROCESS_BOUNDS": "1,1,1"}, True),  # one host of a slice, by itself
        ({"TPU_PROCESS_BOUNDS": "2,2,1"}, False),
        ({"SLURM_NTASKS": "1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, True),
        (KAGGLE | {"SLURM_NTASKS": "4"}, False),
    ],
)
def test_one_worker_is_one_process(environment, alone):
    assert is_alone(environment) == alone


def test_jax_is_not_asked_to_find_processes_on_kaggle():
    """Made to believe that it is on a TPU, JAX would look for a host of the name `local`."""
    program = (
        "import os; os.environ |= {'JAX_FORCE_TPU_INIT': '1', 'JAX_PLATFORMS': 'cpu'}\n"
        "from ldm_jax.commands.hosts import Hosts, join\n"
        "join(Hosts())\n"
        "import jax; print(jax.process_count())\n"
    )
    environment = {"PATH": "", "PYTHONPATH": ":".join(sys.path)} | KAGGLE
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
