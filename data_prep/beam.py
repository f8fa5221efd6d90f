"""Writes the splits of a dataset by Apache Beam, on any of its runners; needs the extra `[beam]`.

A worker takes a split's part of the plan, reads the bases from the FASTA (at the same path on every
worker), writes the shards in a folder of its own and copies them to the staging place, from where
this machine fetches them. The bytes are those of `build` without Beam. See docs/beam.md.
"""

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from etils import epath

from data_prep.split_writers import Plan, SplitTask, Storage, Writer, split_tasks, write_task
from epinformer_jax.data.atomic import atomic_directory
from epinformer_jax.data.genome import Genome
from epinformer_jax.data.records import Manifest, WrittenSplit, finish_dataset

STAGING_OPTION = "--staging_shards="
_NOTE = ".written.json"


def stage_split(task: SplitTask, place: str) -> str:
    """Writes a split and puts its shards, and a note of them last, into `place`; its name.

    A worker that does it again puts the same bytes there.
    """
    target = epath.Path(place)
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        written = write_task(dataclasses.replace(task, folder=folder))
        for shard in written.shards:
            (target / shard["file"]).write_bytes((Path(folder) / shard["file"]).read_bytes())
    (target / f"{task.split}{_NOTE}").write_text(json.dumps(dataclasses.asdict(written)))
    return task.split


def fetch_splits(splits: Sequence[str], place: str, folder: Path) -> list[WrittenSplit]:
    """Brings staged splits into a folder and takes them out of `place`.

    Raises:
      ValueError: a split was not staged: the pipeline ended without it.
    """
    source = epath.Path(place)
    written = []
    for split in splits:
        note = source / f"{split}{_NOTE}"
        if not note.exists():
            raise ValueError(f"{place}: split {split} is missing; can every worker write there?")
        values = json.loads(note.read_text())
        values["shards"], values["keys"] = tuple(values["shards"]), tuple(values["keys"])
        part = WrittenSplit(**values)
        for shard in part.shards:
            (folder / shard["file"]).write_bytes((source / shard["file"]).read_bytes())
            (source / shard["file"]).unlink()
        note.unlink()
        written.append(part)
    return written


def beam_writer(options: Sequence[str] = ()) -> Writer:
    """A writer that runs a Beam pipeline with these options; without any, on this machine.

    `--staging_shards=PLACE` names a place that workers and this machine both reach (a shared disk,
    gs://...); without it shards are staged in this machine's temporary folder.

    Raises:
      ValueError: Beam is not installed.
    """
    try:
        import apache_beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise ValueError(
            "--beam needs Apache Beam; install it: pip install 'epinformer_jax[beam]'"
        ) from error
    places = [text.removeprefix(STAGING_OPTION) for text in options if _is_staging(text)]
    flags = [text for text in options if not _is_staging(text)]

    def write(
        directory: Path,
        plan: Plan,
        manifest: Manifest,
        genome: Genome | None,
        storage: Storage,
        done: Callable[[int], object],
    ) -> Manifest:
        manifest = dataclasses.replace(manifest, compression=storage.compression)
        with atomic_directory(directory) as folder, tempfile.TemporaryDirectory() as own:
            place = f"{(places or [own])[-1].rstrip('/')}/{manifest.kind}"
            tasks = split_tasks(folder, plan, manifest, genome, storage)
            with apache_beam.Pipeline(options=PipelineOptions(flags)) as pipeline:
                _ = (
                    pipeline
                    | "splits" >> apache_beam.Create(tasks)
                    | "one split a worker" >> apache_beam.Reshuffle()
                    | "write" >> apache_beam.Map(stage_split, place)
                )
            written = fetch_splits(plan.splits, place, folder)
            done(sum(len(part.keys) for part in written))
            return finish_dataset(folder, manifest.kind, manifest, written)

    return write


def _is_staging(text: str) -> bool:
    return text.startswith(STAGING_OPTION)
