"""Runs on many hosts: start-up from the environment, who writes, and stopping together.

Every process runs the same program on the same global batches and holds the whole model; all of it
works unchanged in one process. `start` must come before anything asks JAX for devices.
"""

import glob
import importlib.util
import itertools
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

EXPLICIT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
OPEN_MPI = "OMPI_COMM_WORLD_SIZE"
TPU_DEVICES = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")

_stop = threading.Event()
_asked = itertools.count()  # a number that grows, alike on all processes, for JAX to compare


class Preempted(Exception):
    """The run was asked to end (SIGTERM) and has saved where it stood."""


class Processes(NamedTuple):
    """What jax.distributed.initialize is told; None: it finds that out itself."""

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None


def start(setting: str) -> None:
    """Joins the other processes of a run, before any device is used.

    `setting`: `off` never; `on` always; `auto` where the environment speaks of several processes:
    the variables of EXPLICIT, a SLURM step or Open MPI job of more than one task, or a TPU VM.

    Raises:
      ValueError: the environment is incomplete, or `on` finds no other processes to join.
    """
    if setting == "off" or jax.distributed.is_initialized():
        return
    found = processes(os.environ)
    if found is None and setting == "auto":
        return
    found = found or Processes()
    # CPU devices of several processes talk through gloo; GPUs and TPUs do not read this
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        jax.distributed.initialize(found.coordinator, found.count, found.index)
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"config.distributed={setting!r}: cannot join the other processes "
            f"({str(error).splitlines()[0]}); set {', '.join(EXPLICIT)} for each process, or "
            "--config.distributed=off"
        ) from None
    logging.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
    )


def processes(environment: Mapping[str, str]) -> Processes | None:
    """What the environment says about other processes; None where it speaks of none.

    Raises:
      ValueError: some of the variables of EXPLICIT are missing, or are no numbers.
    """
    given = [name for name in EXPLICIT if environment.get(name)]
    if given:
        if len(given) < len(EXPLICIT):
            missing = ", ".join(name for name in EXPLICIT if name not in given)
            raise ValueError(f"{', '.join(given)} is set but {missing} is not: set all or none")
        address, count, index = (environment[name] for name in EXPLICIT)
        if ":" not in address or not count.isdigit() or not index.isdigit():
            raise ValueError(
                f"expected JAX_COORDINATOR_ADDRESS=host:port and whole numbers, got {address!r}, "
                f"JAX_NUM_PROCESSES={count!r}, JAX_PROCESS_ID={index!r}"
            )
        return Processes(address, int(count), int(index))
    in_step = all(environment.get(name) for name in SLURM)
    if in_step and int(environment["SLURM_NTASKS"]) > 1:
        return Processes()
    if int(environment.get(OPEN_MPI, "1")) > 1:
        return Processes()
    return Processes() if _is_tpu_vm(environment) else None


def is_lead() -> bool:
    """Whether this process writes tables and reports: one does."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def all_agree(condition: bool) -> bool:
    """Whether the condition holds on every process; each must ask."""
    if jax.process_count() == 1:
        return condition
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(condition)).all())


@contextmanager
def stops_on_sigterm() -> Iterator[None]:
    """Inside, SIGTERM makes `must_stop` true instead of ending the process.

    With jax.distributed the notice goes to all processes through JAX, which then owns the signal.
    Elsewhere than in the main thread it does nothing.
    """
    _stop.clear()
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or jax.distributed.is_initialized():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: _stop.set())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def ask_to_stop() -> None:
    """Makes `must_stop` true for all threads of this process."""
    _stop.set()


def must_stop() -> bool:
    """Whether to save and end now; true at the same call on every process, so each must ask equally
    often: before every step.
    """
    if jax.distributed.is_initialized():
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(next(_asked))
    return _stop.is_set()


def _is_tpu_vm(environment: Mapping[str, str]) -> bool:
    platforms = environment.get("JAX_PLATFORMS", "tpu")
    if "tpu" not in platforms or importlib.util.find_spec("libtpu") is None:
        return False
    return any(glob.glob(pattern) for pattern in TPU_DEVICES)
