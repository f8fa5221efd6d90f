"""Cross-validation: every fold trained, its test chromosomes predicted by it alone, and the
predictions pooled.

One fold is a cross-validation with one fold. For each: the encoder is pre-trained on the fold's own
training chromosomes (or read from a directory, after a check for leakage), transplanted, the
expression model trained, its test genes predicted.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import ml_collections
import numpy as np
from absl import logging
from jaxtyping import Int

from epinformer_jax.data import features as features_lib
from epinformer_jax.data import folds as folds_lib
from epinformer_jax.data import loader
from epinformer_jax.data.batches import Plan
from epinformer_jax.data.folds import Fold
from epinformer_jax.data.loader import GeneSet, Stream, WindowSet, load_genes, load_windows, stream
from epinformer_jax.data.records import Manifest
from epinformer_jax.model import functional
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import evaluation, loop, networks, rundir, tasks
from epinformer_jax.train.checkpoint import ModelInfo, load_model

FIRST_STAGE = "stage_1"  # folder of the first of two stages, in the fold's
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Genes:
    """A gene set with its batch plan, as the loop wants it."""

    manifest: Manifest
    data: GeneSet
    layout: Plan
    schema: features_lib.FeatureSchema
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The measured value of each example."""
        return self.data.labels

    def stream(self, indices: Int[np.ndarray, "N"], *, shuffle: bool) -> Stream:
        """Batches of the genes at `indices`."""

        def pack(chosen):
            return self.data.batch(chosen, self.layout)

        size = self.layout.batch_size
        return stream(indices, pack, batch_size=size, seed=self.seed, shuffle=shuffle)


@dataclasses.dataclass(frozen=True)
class Windows:
    """A window set, as the loop wants it.

    With `strands` both, training has each window on either strand; `random` ones are drawn on the
    device, in model.packing.
    """

    manifest: Manifest
    data: WindowSet
    batch_size: int
    strands: str
    seed: int

    @property
    def labels(self) -> np.ndarray:
        """The measured value of each example."""
        return self.data.labels

    def stream(self, indices: Int[np.ndarray, "N"], *, shuffle: bool) -> Stream:
        """Batches of the windows at `indices`."""

        def pack(chosen):
            return self.data.batch(chosen, self.batch_size)

        if shuffle and self.strands == "both":
            indices = np.concatenate([indices, indices + len(self.data)])
        return stream(indices, pack, batch_size=self.batch_size, seed=self.seed, shuffle=shuffle)


def run(config: ml_collections.ConfigDict, workdir: str | Path) -> Path:
    """Trains and predicts all folds of a checked configuration; returns the run directory.

    Leaves what the report reads: tables and metrics for each fold and pooled. A killed run goes on
    where it was.

    Raises:
      ValueError: data, folds or run directory do not fit the configuration.
    """
    workdir = Path(workdir)
    needs_windows = config.task == "activity" or config.encoder.source == "pretrain"
    networks.check(config)
    evaluation.read_ceiling(config.data.ceiling)
    genes = _load_genes(config) if config.task == "expression" else None
    windows = _load_windows(config) if needs_windows else None
    loaded = {"windows": windows, "genes": genes}  # last what is tested
    fingerprints = {k: part.manifest.fingerprint for k, part in loaded.items() if part is not None}
    folds = _folds(config, [part for part in loaded.values() if part is not None])
    if config.encoder.source == "directory":
        for fold in folds:  # a leak in the last fold must not wait for the others' training
            _encoder_from(config, fold)
    run_id = rundir.open_run(workdir, config.to_dict(), fingerprints)
    tables = []
    for fold in folds:
        directory = workdir / fold.name
        directory.mkdir(exist_ok=True)
        if config.task == "activity":
            _, table = _train_activity(config, fold, windows, directory, run_id)
        else:
            table = _train_expression(config, fold, genes, windows, directory, run_id)
        tables.append(table)
    evaluation.pool(config, workdir, folds, tables, genes, windows)
    return workdir


def _load_genes(config) -> Genes:
    schema = features_lib.schema(config.features.schema, config.features.preset)
    manifest, data = load_genes(
        config.data.genes,
        schema=schema,
        label=config.data.label,
        max_elements=config.model.max_elements,
        control=config.data.control,
        seed=config.seed,
    )
    for name, built in (("window_bp", manifest.window_bp), ("promoter_bp", manifest.promoter_bp)):
        if built > config.model.window_bp:
            raise ValueError(
                f"{config.data.genes} was built with {name}={built}, wider than "
                "config.model.window_bp="
                f"{config.model.window_bp}; widen the model's window or build again"
            )
    encoder = networks.encoder_config(config)
    layout = data.plan(
        batch_size=config.train.batch_size,
        slots=1 + config.model.max_elements,
        window_bp=config.model.window_bp,
        stride=encoder.stride,
        margin_bp=encoder.reach_bp + config.data.shift_bp,
        layouts=config.train.layouts,
    )
    return Genes(manifest, data, layout, schema, config.seed)


def _load_windows(config) -> Windows:
    manifest, data = load_windows(
        config.data.windows,
        label=config.data.activity_label,
        window_bp=config.model.activity_window_bp,
    )
    return Windows(manifest, data, config.pretrain.batch_size, config.data.strands, config.seed)


def _folds(config, loaded) -> list[Fold]:
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


def _train_activity(config, fold: Fold, windows: Windows, directory: Path, run_id: str):
    model = networks.activity_config(config)
    objective = tasks.Objective(
        model,
        config.pretrain.loss,
        shift_bp=config.data.shift_bp,
        flip=config.data.strands == "random",
    )
    start = functional.init(model, seed=config.seed)
    if config.task == "activity" and config.encoder.source == "directory":
        start = functional.transplant_encoder(_encoder_from(config, fold), start)
    parts = {role: windows.data.where(getattr(fold, role)) for role in ("train", "valid", "test")}
    info = ModelInfo(
        model=model,
        label=config.data.activity_label,
        chromosomes=_chromosomes(fold, windows.manifest),
        fold=fold.name,
        genome=config.data.genome,
        cell=config.data.cell,
        data_fingerprint=windows.manifest.fingerprint,
        source="trained by epinformer_jax",
    )
    result = _fit(
        config.pretrain,
        config.seed,
        objective,
        start,
        windows,
        parts,
        directory,
        info,
        name=f"{fold.name} activity",
        run_id=run_id,
    )
    prediction, _ = loop.predict_all(
        objective,
        result.variables,
        windows.stream(parts["test"], shuffle=False),
        len(parts["test"]),
    )
    table = evaluation.window_table(windows.data, parts["test"], fold.name, prediction)
    evaluation.write_fold(directory, config, result, table, info)
    return result.variables, table


def _train_expression(config, fold, genes: Genes, windows, directory: Path, run_id: str):
    start = functional.init(networks.expression_config(config, genes.schema), seed=config.seed)
    encoder = _encoder_weights(config, fold, windows, directory, run_id)
    if encoder is not None:
        start = functional.transplant_encoder(encoder, start)
    for stage in _stages(config, genes, directory):
        stage.directory.mkdir(exist_ok=True)
        start, table = _train_stage(config, fold, stage, start, run_id)
    return table


class _Stage(NamedTuple):
    """One training of the expression model; the next one starts from its best weights."""

    name: str
    genes: Genes
    settings: ml_collections.ConfigDict
    directory: Path


def _stages(config, genes: Genes, directory: Path) -> list[_Stage]:
    """One stage; or two, of which the first has no promoter signals (spec 4.1)."""
    if not config.second_stage.epochs:
        return [_Stage("expression", genes, config.train, directory)]
    silent = features_lib.without_promoter_signals(genes.schema)
    data = loader.with_schema(genes.data, genes.manifest, silent)
    first = dataclasses.replace(genes, data=data, schema=silent)
    settings = ml_collections.ConfigDict({**config.train, **config.second_stage})
    return [
        _Stage("expression, stage 1", first, config.train, directory / FIRST_STAGE),
        _Stage("expression, stage 2", genes, settings, directory),
    ]


def _train_stage(config, fold: Fold, stage: _Stage, start: Variables, run_id: str):
    genes = stage.genes
    model = networks.expression_config(config, genes.schema)
    objective = tasks.Objective(
        model,
        config.train.loss,
        config.encoder.mode,
        genes.schema.unknown_base,
        flip=config.data.flip,
        shift_bp=config.data.shift_bp,
    )
    parts = {role: genes.data.where(getattr(fold, role)) for role in ("train", "valid", "test")}
    info = ModelInfo(
        model=model,
        schema=genes.schema.to_dict(),
        label=config.data.label,
        label_transform={"unit": config.data.label_unit},
        unknown_base=genes.schema.unknown_base,
        element_rule={**genes.manifest.element_rule, "max_elements": config.model.max_elements},
        chromosomes=_chromosomes(fold, genes.manifest),
        fold=fold.name,
        genome=config.data.genome,
        cell=config.data.cell,
        promoter_bp=genes.manifest.promoter_bp,
        feature_quantiles=_quantiles(genes, parts["train"]),
        data_fingerprint=genes.manifest.fingerprint,
        source="trained by epinformer_jax",
    )
    result = _fit(
        stage.settings,
        config.seed,
        objective,
        start,
        genes,
        parts,
        stage.directory,
        info,
        name=f"{fold.name} {stage.name}",
        run_id=run_id,
    )
    test = parts["test"]
    prediction, attention = loop.predict_all(
        objective, result.variables, genes.stream(test, shuffle=False), len(test)
    )
    table = evaluation.gene_table(genes.data, test, fold.name, prediction)
    links = evaluation.attention_table(
        genes.data, genes.manifest.link_signal_names, test, attention
    )
    rundir.write_tsv(stage.directory / "attention.tsv", links)
    evaluation.write_fold(stage.directory, config, result, table, info)
    return result.variables, table


def _encoder_weights(config, fold, windows, directory, run_id) -> Variables | None:
    if config.encoder.source == "none":
        return None
    if config.encoder.source == "pretrain":
        folder = directory / "encoder"
        folder.mkdir(exist_ok=True)
        return _train_activity(config, fold, windows, folder, run_id)[0]
    return _encoder_from(config, fold)


def _encoder_from(config, fold: Fold) -> Variables:
    """The encoder of config.encoder.directory (its fold, if it has folds), checked for leakage."""
    folder = Path(config.encoder.directory)
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


def _fit(settings, seed, objective, start, examples, parts, directory, info, *, name, run_id):
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
        directory,
        info,
        name=name,
        run_id=run_id,
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
