"""Jobs side by side in one process, each on devices of its own, or several on one.

JAX gives work to a device without waiting for it, so one thread a job keeps all devices busy. Each
job's numbers are those it would have alone on such devices.
"""

import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TypeVar

import jax
from jax.sharding import Mesh

from epinformer_jax.train import distributed

Job = TypeVar("Job")
Result = TypeVar("Result")


def run(
    work: Callable[[Job, Mesh], Result], jobs: Sequence[Job], meshes: Sequence[Mesh]
) -> list[Result]:
    """work(job, mesh) for each job, as many at once as there are meshes; results in the order of
    the jobs.

    When one fails the others are asked to stop (distributed.must_stop), which saves where they
    stand, those that wait are left out, and its error is raised.
    """
    if len(meshes) == 1:
        return [work(job, meshes[0]) for job in jobs]
    free: queue.SimpleQueue[Mesh] = queue.SimpleQueue()
    for mesh in meshes:
        free.put(mesh)

    def one(job: Job) -> Result:
        mesh = free.get()
        try:
            with jax.default_device(mesh.devices.flat[0]):
                return work(job, mesh)
        except BaseException:
            distributed.ask_to_stop()
            raise
        finally:
            free.put(mesh)

    with ThreadPoolExecutor(len(meshes), thread_name_prefix="fold") as pool:
        futures = [pool.submit(one, job) for job in jobs]
        try:
            wait(futures, return_when="FIRST_EXCEPTION")
        except BaseException:  # an interrupt: let the jobs save
            distributed.ask_to_stop()
            raise
        finally:
            for future in futures:
                future.cancel()
    return _results(futures)


def _results(futures: Sequence[Future[Result]]) -> list[Result]:
    errors = [f.exception() for f in futures if not f.cancelled() and f.exception()]
    if errors:  # what went wrong before what was stopped for it
        raise min(errors, key=lambda error: isinstance(error, distributed.Preempted))
    return [future.result() for future in futures]
