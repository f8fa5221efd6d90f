"""Writes the splits of a plan: one after the other here, or several at a time in processes.

Splits are independent files, so every writer gives the same bytes.
"""

import concurrent.futures
import dataclasses
import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from data_prep.plans import GenePlan, WindowPlan
from epinformer_jax.data import records
from epinformer_jax.data.atomic import atomic_directory
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import Example, Manifest, WrittenSplit

Plan = GenePlan | WindowPlan


class Storage(NamedTuple):
    """How shards are written: compression of sequences, and bytes at which a new file begins."""

    compression: str | None = None
    shard_bytes: int = records.DEFAULT_SHARD_BYTES


# (directory, plan, manifest, genome, storage, called with numbers of examples done) -> manifest
Writer = Callable[[Path, Plan, Manifest, Genome | None, Storage, Callable[[int], object]], Manifest]


@dataclasses.dataclass(frozen=True)
class SplitTask:
    """One split, complete in itself and picklable: all that another process needs to write it."""

    folder: str
    split: str
    plan: Plan
    manifest: Manifest
    genome: Genome | None
    shard_bytes: int


def write_here(
    directory: Path,
    plan: Plan,
    manifest: Manifest,
    genome: Genome | None,
    storage: Storage,
    done: Callable[[int], object],
) -> Manifest:
    """Writes a dataset in this process, one split after the other."""
    return records.write_dataset(
        directory,
        manifest.kind,
        manifest,
        {split: _counted(plan.examples(split, genome), done) for split in plan.splits},
        compression=storage.compression,
        shard_bytes=storage.shard_bytes,
    )


def processes(workers: int) -> Writer:
    """A writer that has `workers` processes write one split each at a time, largest first.

    The writer raises OSError where a process ends by itself.
    """

    def write(
        directory: Path,
        plan: Plan,
        manifest: Manifest,
        genome: Genome | None,
        storage: Storage,
        done: Callable[[int], object],
    ) -> Manifest:
        manifest = dataclasses.replace(manifest, compression=storage.compression)
        context = multiprocessing.get_context("spawn")
        with (
            atomic_directory(directory) as folder,
            concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool,
        ):
            tasks = split_tasks(folder, plan, manifest, genome, storage)
            tasks.sort(key=lambda task: -len(task.plan))
            futures = [pool.submit(write_task, task) for task in tasks]
            written = []
            try:
                for future in concurrent.futures.as_completed(futures):
                    written.append(future.result())
                    done(len(written[-1].keys))
            except concurrent.futures.BrokenExecutor as error:
                raise OSError(
                    "a process that wrote a split has ended by itself: memory may have run out "
                    "(ask for fewer --workers), or a file it needs is gone"
                ) from error
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            return records.finish_dataset(folder, manifest.kind, manifest, written)

    return write


def split_tasks(
    folder: Path, plan: Plan, manifest: Manifest, genome: Genome | None, storage: Storage
) -> list[SplitTask]:
    """One task a split, each with its own part of the plan; in natural order."""
    return [
        SplitTask(str(folder), split, part_of(plan, split), manifest, genome, storage.shard_bytes)
        for split in plan.splits
    ]


def write_task(task: SplitTask) -> WrittenSplit:
    """Writes the shards of a task's split into its folder.

    Raises:
      ValueError: an example that cannot be written.
      OSError: a file cannot be read or written.
    """
    return records.write_split(
        task.folder,
        task.manifest.kind,
        task.manifest,
        task.split,
        task.plan.examples(task.split, task.genome),
        shard_bytes=task.shard_bytes,
    )


def part_of(plan: Plan, split: str) -> Plan:
    """The plan of one split: its genes and their links, or its windows."""
    if isinstance(plan, WindowPlan):
        return dataclasses.replace(plan, windows=plan.windows[plan.windows["split"] == split])
    genes = plan.genes[plan.genes["split"] == split]
    links = plan.links[plan.links["gene_id"].isin(genes["gene_id"])]
    return dataclasses.replace(plan, genes=genes, links=links)


def _counted(examples: Iterator[Example], done: Callable[[int], object]) -> Iterator[Example]:
    for example in examples:
        yield example
        done(1)
