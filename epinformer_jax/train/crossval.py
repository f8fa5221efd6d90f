"""Cross-validation: every fold trained, its test chromosomes predicted by it alone, and the
predictions pooled.

One fold is a cross-validation with one fold. For each: the encoder is pre-trained on the fold's own
training chromosomes (or read from a directory, after a check for leakage), transplanted, the
expression model trained, its test genes predicted. Folds run side by side, on devices of their own
or, where that is asked for, on one CPU.
"""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import ml_collections
import numpy as np
from absl import logging
from jax.sharding import Mesh

from epinformer_jax.data import features as features_lib
from epinformer_jax.data import folds as folds_lib
from epinformer_jax.data import loader
from epinformer_jax.data.folds import Fold
from epinformer_jax.data.records import Manifest
from epinformer_jax.model import functional
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import (
    devices,
    distributed,
    encoder_cache,
    evaluation,
    label_transforms,
    loop,
    networks,
    rundir,
    side_by_side,
    tasks,
)
from epinformer_jax.train.checkpoint import ModelInfo, load_model
from epinformer_jax.train.examples import Genes, Windows, read_genes, read_windows

FIRST_STAGE = "stage_1"  # folder of the first of two stages, in the fold's
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Place(NamedTuple):
    """Where a fold trains and what it leaves there: its folder, the run's id, its devices, and how
    many folds train at once.
    """

    directory: os.PathLike
    run_id: str
    mesh: Mesh | None = None
    at_once: int = 1


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> os.PathLike:
    """Trains and predicts all folds of a checked configuration; returns the run directory.

    Leaves what the report reads: tables and metrics for each fold and pooled. A killed run goes on
    where it was.

    Raises:
      ValueError: data, folds or run directory do not fit the configuration.
      Preempted: the process was asked to end; each fold has saved where it stood.
    """
    workdir = rundir.folder(workdir)
    needs_windows = config.task == "activity" or config.encoder.source == "pretrain"
    networks.check(config)
    label_transforms.stated(config)
    evaluation.read_ceiling(config.data.ceiling)
    genes = read_genes(config) if config.task == "expression" else None
    windows = read_windows(config) if needs_windows else None
    loaded = {"windows": windows, "genes": genes}  # last what is tested
    fingerprints = {k: part.manifest.fingerprint for k, part in loaded.items() if part is not None}
    folds = folds_of(config, [part for part in loaded.values() if part is not None])
    if config.encoder.source == "directory":
        for fold in folds:  # a leak in the last fold must not wait for the others' training
            _encoder_from(config, fold)
    run_id = rundir.open_run(workdir, config.to_dict(), fingerprints)

    def train(fold: Fold, mesh: Mesh):
        place = Place(workdir / fold.name, run_id, mesh, len(meshes))
        rundir.make(place.directory)
        if config.task == "activity":
            return _train_activity(config, fold, windows, place)[1]
        return _train_expression(config, fold, genes, windows, place)

    meshes = devices.places(len(folds), parallel=config.train.folds_in_parallel)
    with distributed.stops_on_sigterm():
        tables = side_by_side.run(train, folds, meshes)
    if distributed.is_lead():
        evaluation.pool(config, workdir, folds, tables, genes, windows)
    return workdir


def folds_of(config, loaded) -> list[Fold]:
    """The folds a configuration names, for the data sets `loaded` (the last is what is tested).

    Raises:
      ValueError: a role without examples, or examples that two folds test.
    """
    if config.data.folds == "published":
        table = folds_lib.published_folds()
    else:
        table = folds_lib.read_folds(config.data.folds)
    names = [name for given in config.data.fold_names for name in given.split(",")] or list(table)
    folds = [folds_lib.get_fold(table, name) for name in names]
    tested_by: dict[str, str] = {}
    for fold in folds:
        for part in loaded:
            held = fold.restrict(
                part.manifest.splits
            )  # raises when a role is left without examples
        for split in held.test:  # of the last part: what is tested
            if split in tested_by:
                raise ValueError(
                    f"{config.data.folds}: split {split!r} is tested by {tested_by[split]} and by "
                    f"{fold.name}; every "
                    f"example is predicted once: choose folds with config.data.fold_names"
                )
            tested_by[split] = fold.name
    return folds


def activity_objective(config) -> tasks.Objective:
    """What training the activity model minimises."""
    return tasks.Objective(
        networks.activity_config(config),
        config.pretrain.loss,
        shift_bp=config.data.shift_bp,
        flip=config.data.strands == "random",
    )


def _train_activity(config, fold: Fold, windows: Windows, place: Place):
    objective = activity_objective(config)
    model = objective.model
    start = functional.init(model, seed=config.seed)
    if config.task == "activity" and config.encoder.source == "directory":
        start = functional.transplant_encoder(_encoder_from(config, fold), start)
    parts = {role: windows.data.where(getattr(fold, role)) for role in ("train", "valid", "test")}
    info = ModelInfo(
        model=model,
        label=config.data.activity_label,
        label_transform=label_transforms.of_activity(config, windows.manifest),
        chromosomes=_chromosomes(fold, windows.manifest),
        fold=fold.name,
        genome=config.data.genome,
        cell=config.data.cell,
        data_fingerprint=windows.manifest.fingerprint,
        both_strands=objective.flip,
        source="trained by epinformer_jax",
    )
    result = _fit(
        config.pretrain,
        config.seed,
        objective,
        start,
        windows,
        parts,
        place,
        info,
        name=f"{fold.name} activity",
    )
    prediction, _ = loop.predict_all(
        objective,
        result.variables,
        windows.stream(parts["test"], shuffle=False),
        len(parts["test"]),
        mesh=place.mesh,
    )
    table = evaluation.window_table(windows.data, parts["test"], fold.name, prediction)
    evaluation.write_fold(place.directory, config, result, table, info)
    return result.variables, table


def _train_expression(config, fold, genes: Genes, windows, place: Place):
    start = functional.init(networks.expression_config(config, genes.schema), seed=config.seed)
    encoder = _encoder_weights(config, fold, windows, place)
    if encoder is not None:
        start = functional.transplant_encoder(encoder, start)
    with _encoder_cache(config, fold, genes, start, place) as with_cache:
        for stage in _stages(config, genes, place):
            rundir.make(stage.place.directory)
            start, table = _train_stage(config, fold, stage, start, with_cache)
    return table


@contextlib.contextmanager
def _encoder_cache(
    config, fold: Fold, genes: Genes, start: Variables, place: Place
) -> Iterator[Callable[[Genes], loop.Examples]]:
    """Yields what puts a frozen encoder's outputs into batches, or leaves them as they are.

    The files go when the block ends well; a fold that is stopped finds them when it goes on.
    """
    setting, objective = config.train.encoder_cache, expression_objective(config, genes)
    if setting == "off" or objective.encoder != "frozen":
        yield lambda examples: examples
        return
    folder, mesh = _scratch(config, fold, place), place.mesh
    if jax.process_count() > 1:  # each process makes and reads its own
        folder = folder / f"process_{jax.process_index()}"
        mesh = devices.mesh_of(jax.local_devices())
    cache = encoder_cache.EncoderCache(
        objective,
        start,
        genes.data.sequences,
        genes.layout,
        folder,
        dtype=config.train.encoder_cache_dtype,
        mesh=mesh,
    )
    reason = encoder_cache.obstacle(setting, objective, cache, at_once=place.at_once)
    if not distributed.all_agree(not reason):
        logging.info("%s: encoder outputs are not cached: %s", fold.name, reason or "another host")
        yield lambda examples: examples
        return
    yield lambda examples: encoder_cache.CachedExamples(examples, cache)
    cache.delete()


def _scratch(config, fold: Fold, place: Place) -> Path:
    """A local folder for this fold's cache: in its own folder unless configured or on no disk."""
    stated = config.train.encoder_cache_directory
    if not stated and not rundir.is_remote(place.directory):
        return Path(place.directory) / "encoder_cache"
    base = Path(stated or tempfile.gettempdir()) / "epinformer_jax_encoder_cache"
    return base / place.run_id[:12] / fold.name


class _Stage(NamedTuple):
    """One training of the expression model; the next one starts from its best weights."""

    name: str
    genes: Genes
    settings: ml_collections.ConfigDict
    place: Place


def _stages(config, genes: Genes, place: Place) -> list[_Stage]:
    """One stage; or two, of which the first has no promoter signals (spec 4.1)."""
    if not config.second_stage.epochs:
        return [_Stage("expression", genes, config.train, place)]
    silent = features_lib.without_promoter_signals(genes.schema)
    data = loader.with_schema(genes.data, genes.manifest, silent)
    first = dataclasses.replace(genes, data=data, schema=silent)
    settings = ml_collections.ConfigDict({**config.train, **config.second_stage})
    first_place = place._replace(directory=place.directory / FIRST_STAGE)
    return [
        _Stage("expression, stage 1", first, config.train, first_place),
        _Stage("expression, stage 2", genes, settings, place),
    ]


def expression_objective(config, genes: Genes) -> tasks.Objective:
    """What training the expression model minimises."""
    model = networks.expression_config(config, genes.schema)
    return tasks.Objective(
        model,
        config.train.loss,
        config.encoder.mode,
        genes.schema.unknown_base,
        flip=config.data.flip,
        shift_bp=config.data.shift_bp,
        unknown_kmers=tasks.unknown_kmers(
            config.train.first_convolution, model, genes.data.sequences, genes.layout
        ),
    )


def _train_stage(config, fold: Fold, stage: _Stage, start: Variables, with_cache):
    genes, place = stage.genes, stage.place
    objective, examples = expression_objective(config, genes), with_cache(genes)
    parts = {role: genes.data.where(getattr(fold, role)) for role in ("train", "valid", "test")}
    info = ModelInfo(
        model=objective.model,
        schema=genes.schema.to_dict(),
        label=config.data.label,
        label_transform=label_transforms.of_expression(config, genes.manifest),
        unknown_base=genes.schema.unknown_base,
        element_rule={**genes.manifest.element_rule, "max_elements": config.model.max_elements},
        chromosomes=_chromosomes(fold, genes.manifest),
        fold=fold.name,
        genome=config.data.genome,
        cell=config.data.cell,
        promoter_bp=genes.manifest.promoter_bp,
        feature_quantiles=_quantiles(genes, parts["train"]),
        data_fingerprint=genes.manifest.fingerprint,
        both_strands=objective.flip,
        source="trained by epinformer_jax",
    )
    result = _fit(
        stage.settings,
        config.seed,
        objective,
        start,
        examples,
        parts,
        place,
        info,
        name=f"{fold.name} {stage.name}",
    )
    test = parts["test"]
    prediction, attention = loop.predict_all(
        objective,
        result.variables,
        examples.stream(test, shuffle=False),
        len(test),
        mesh=place.mesh,
    )
    table = evaluation.gene_table(genes.data, test, fold.name, prediction)
    links = evaluation.attention_table(
        genes.data, genes.manifest.link_signal_names, test, attention
    )
    rundir.write_tsv(place.directory / "attention.tsv", links)
    evaluation.write_fold(place.directory, config, result, table, info)
    return result.variables, table


def _encoder_weights(config, fold, windows, place: Place) -> Variables | None:
    if config.encoder.source == "none":
        return None
    if config.encoder.source == "pretrain":
        folder = place.directory / "encoder"
        rundir.make(folder)
        return _train_activity(config, fold, windows, place._replace(directory=folder))[0]
    return _encoder_from(config, fold)


def _encoder_from(config, fold: Fold) -> Variables:
    """The encoder of config.encoder.directory (its fold, if it has folds), checked for leakage."""
    folder = rundir.folder(config.encoder.directory)
    if (folder / fold.name).is_dir():
        folder = folder / fold.name
    if (folder / "encoder").is_dir():
        folder = folder / "encoder"
    variables, info = load_model(folder)
    check_leakage(info, fold, str(folder))
    return variables


def check_leakage(info: ModelInfo, fold: Fold, name: str) -> None:
    """Refuses an encoder that was trained on a fold's test chromosomes; warns where it saw
    validation ones.

    Where the encoder's data set names its splits otherwise (chromosomes against parts of a
    library), names prove nothing: that is logged, and sequences that both hold are not looked for.

    Raises:
      ValueError: training chromosomes of the encoder meet the fold's test chromosomes.
    """
    seen = info.chromosomes.get("train", [])
    if not seen:
        logging.warning(
            "%s does not say which chromosomes it was trained on; leakage is not excluded", name
        )
    elif not set(seen) & {*fold.train, *fold.valid, *fold.test}:
        logging.warning(
            "encoder %s was trained on %s ..., %s tests %s ...: no name in common, so sequences "
            "that "
            "both data sets hold are not found",
            name,
            seen[0],
            fold.name,
            fold.test[0],
        )
    leaked = sorted(set(seen) & set(fold.test))
    if leaked:
        raise ValueError(
            f"encoder {name} was trained on {', '.join(leaked)}, which {fold.name} tests; use the "
            f"encoder of {fold.name}"
        )
    shared = sorted(set(seen) & set(fold.valid))
    if shared:
        logging.warning(
            "encoder %s was trained on %s, validation chromosomes of %s",
            name,
            ", ".join(shared),
            fold.name,
        )


def _fit(settings, seed, objective, start, examples, parts, place: Place, info, *, name):
    optimizer = loop.OptimizerSpec(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        schedule=settings.schedule,
        warmup_steps=settings.warmup_steps,
        total_steps=settings.epochs
        * examples.stream(parts["train"], shuffle=True).steps_per_epoch
        * (settings.schedule == "cosine"),
    )
    spec = loop.FitSpec(settings.epochs, settings.patience_epochs, settings.score, seed)
    return loop.fit(
        objective,
        optimizer,
        spec,
        start,
        examples,
        parts["train"],
        parts["valid"],
        place.directory,
        info,
        name=name,
        run_id=place.run_id,
        mesh=place.mesh,
    )


def _chromosomes(fold: Fold, manifest: Manifest) -> dict[str, list[str]]:
    return {
        role: [s for s in getattr(fold, role) if s in manifest.splits]
        for role in ("train", "valid", "test")
    }


def _quantiles(genes: Genes, indices) -> dict[str, list[float]]:
    examples = [genes.data.examples[i] for i in indices]
    links = np.concatenate([e.link_signals for e in examples])
    signals = np.stack([e.gene_signals for e in examples])
    named = dict(zip(genes.manifest.gene_signal_names, signals.T, strict=True))
    if len(links):
        named |= dict(zip(genes.manifest.link_signal_names, links.T, strict=True))
    return {name: [float(q) for q in np.quantile(v, QUANTILES)] for name, v in named.items()}
