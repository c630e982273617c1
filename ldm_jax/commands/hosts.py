"""Several processes as one run: how they find each other."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import jax

from ldm_jax.commands.native_errors import say_in_one_line
from ldm_jax.commands.watch import watch_others
from ldm_jax.errors import UserError
from ldm_jax.paths import is_remote

# How many processes a launcher has started, where it says so.
LAUNCHED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# A process that has ended waits so long for the others to end as well, before all are stopped.
SHUTDOWN_S = 60
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hosts:
    """The processes of one run. On a Cloud TPU, under SLURM or Open MPI, and in a job of
    Kubernetes JAX finds them by itself."""

    coordinator: str = ""
    """HOST:PORT of process 0, with a free port; the same on all."""
    processes: int = 0
    """Number of processes; 1: this one alone, even if the environment says otherwise."""
    process: int = -1
    """The number of this one, from 0."""

    def check(self) -> None:
        """Raises UserError unless all are given, or none; 1 process needs no more."""
        given = (bool(self.coordinator), self.processes > 1, self.process >= 0)
        if self.processes < 0 or self.process < -1:
            raise UserError("--hosts.processes and --hosts.process are not negative")
        if any(given) and not all(given):
            raise UserError(
                "several processes need all of --hosts.coordinator HOST:PORT, --hosts.processes N "
                "(2 or more) and --hosts.process I"
            )
        if all(given) and self.process >= self.processes:
            raise UserError(
                f"--hosts.process is {self.process}; of {self.processes} processes the last is "
                f"{self.processes - 1}"
            )
        if all(given) and not self.coordinator.rpartition(":")[2].isdigit():
            raise UserError(f"--hosts.coordinator is {self.coordinator!r}; it is HOST:PORT")


def is_alone(environment: Mapping[str, str]) -> bool:
    """Whether the environment says that there is one process.

    A launcher does, or a TPU that has one worker: it may be called `localhost` or `local` (Kaggle),
    which no process could be found by. Several slices of one worker each are several processes.
    """
    for name in LAUNCHED:
        if name in environment:
            return environment[name] == "1"
    if environment.get("MEGASCALE_NUM_SLICES", "1") != "1":
        return False
    bounds = environment.get("TPU_PROCESS_BOUNDS", environment.get("TPU_HOST_BOUNDS"))
    workers = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    return bounds == "1,1,1" or (workers is not None and "," not in workers)


def join(hosts: Hosts) -> None:
    """Makes this process one of several, where there are several; before JAX sees its devices.

    Raises:
      UserError: the options do not go together, or the other processes cannot be found.
    """
    hosts.check()
    if hosts.processes == 1 or (not hosts.coordinator and is_alone(os.environ)):
        return
    # It would take SIGTERM from `StopSignals`, and from everything else that is to end by it.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a cluster that is there but not used
            jax.distributed.initialize(
                hosts.coordinator or None,
                hosts.processes or None,
                hosts.process if hosts.coordinator else None,
                cluster_detection_method="deactivate" if hosts.coordinator else None,
                shutdown_timeout_seconds=SHUTDOWN_S,
            )
    except Exception as error:  # there is a class for each kind of cluster
        nothing_there = "coordinator_address should be defined" in str(error)
        started = "must be called before" in str(error)  # JAX has: in a notebook, a test
        if (nothing_there or started) and not hosts.coordinator:
            return
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise UserError(
            f"the other processes were not found ({reason}); if there are none: --hosts.processes 1"
        ) from error
    if jax.process_count() > 1:
        say_in_one_line()
        watch_others()
    if jax.process_index() > 0:  # process 0 logs what concerns all; others log their own warnings
        logging.getLogger("ldm_jax").setLevel(logging.WARNING)
    cache = jax.config.jax_compilation_cache_dir
    if jax.process_count() > 1 and cache and not is_remote(cache):
        log.info(
            "process 0 alone keeps its compiled programs, in %s: where the hosts do not share this "
            "folder, the others compile at every start; JAX_COMPILATION_CACHE_DIR=gs://BUCKET/xla, "
            "or a shared folder, saves that",
            cache,
        )
