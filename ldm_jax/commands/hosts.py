"""Several processes as one run: how they find each other."""

from __future__ import annotations

import logging
import os
import warnings
from dataclasses import dataclass

import jax

from ldm_jax.errors import UserError

# How many processes a launcher has started, where it says so.
LAUNCHED = ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE")
# A process that has ended waits so long for the others to end as well, before all are stopped.
SHUTDOWN_S = 60


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


def join(hosts: Hosts) -> None:
    """Makes this process one of several, where there are several; before JAX sees its devices.

    Raises:
      UserError: the options do not go together, or the other processes cannot be found.
    """
    hosts.check()
    launched = next((os.environ[name] for name in LAUNCHED if name in os.environ), None)
    if hosts.processes == 1 or (launched == "1" and not hosts.coordinator):
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
    if jax.process_index() > 0:  # process 0 logs what concerns all; others log their own warnings
        logging.getLogger("ldm_jax").setLevel(logging.WARNING)
