"""Trained models side by side: loading them, and which of them may speak about a chromosome.

A model has seen its training chromosomes, and was stopped by its validation ones. An honest
prediction of a gene comes from the fold that tests it.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Bool, Int

from epinformer_jax.data import chromosomes
from epinformer_jax.model.functional import Variables
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

Kind = Literal["expression", "activity"]
Ensemble = Literal["auto", "held-out", "all"]
ENSEMBLES = ("auto", "held-out", "all")
_SHARED = ("schema", "label", "label_transform", "unknown_base", "element_rule", "promoter_bp")


class Model(NamedTuple):
    """Weights, where a jitted function finds them (on the device), what they are, and a short name
    that is unique among the models loaded together.
    """

    name: str
    variables: Variables
    info: ModelInfo


def load_models(paths: Sequence[str | Path], *, kind: Kind) -> list[Model]:
    """Loads models of one kind; a run directory stands for its folds, in natural order.

    For activity models, the pre-trained encoder of a fold is taken where the fold itself is an
    expression model.

    Raises:
      ValueError: a directory holds no model, or one of another kind, or models differ in inputs or
        label.
    """
    if not paths:
        raise ValueError("no model was given; name model directories or a run directory")
    folders = [folder for path in paths for folder in model_folders(Path(path), kind)]
    names = [folder.parent.name if folder.name == "encoder" else folder.name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    models = []
    for name, folder in zip(names, folders, strict=True):
        variables, info = checkpoint.load_model(folder)
        if info.model.kind != kind:
            raise ValueError(f"{folder} holds an {info.model.kind} model, expected an {kind} model")
        models.append(Model(name, jax.device_put(variables), info))
    _check_alike(models)
    return models


def role_of(info: ModelInfo, split: str) -> str:
    """train, valid or test; "none" for a chromosome of no part, "unknown" where no part is known.

    A prefix "chr" does not matter.
    """
    if not any(info.chromosomes.values()):
        return "unknown"
    bare = split.removeprefix("chr")
    for role, members in info.chromosomes.items():
        if bare in {member.removeprefix("chr") for member in members}:
            return role
    return "none"


def testing_model(models: Sequence[Model], splits: Sequence[str]) -> Int[np.ndarray, "N"]:
    """For each split the position of the one model that tests it; -1 where none or several do."""
    by_split = {}
    for split in set(splits):
        testing = [i for i, model in enumerate(models) if role_of(model.info, split) == "test"]
        by_split[split] = testing[0] if len(testing) == 1 else -1
    return np.array([by_split[split] for split in splits], np.int64)


def speakers(
    models: Sequence[Model], splits: Sequence[str], names: Sequence[str], ensemble: Ensemble
) -> Bool[np.ndarray, "M N"]:
    """Which model speaks about which example.

    `held-out`: the one that tests its chromosome. `all`: every model. `auto`: the one that tests
    it, and where there is none, every model.

    Raises:
      ValueError: held-out was asked for and an example is not tested by exactly one of the models.
    """
    if ensemble not in ENSEMBLES:
        raise ValueError(f"ensemble {ensemble!r} is unknown; known are {', '.join(ENSEMBLES)}")
    shape = (len(models), len(splits))
    if ensemble == "all":
        return np.ones(shape, bool)
    chosen = testing_model(models, splits)
    if ensemble == "held-out" and (chosen < 0).any():
        first, count = int(np.argmax(chosen < 0)), int((chosen < 0).sum())
        raise ValueError(
            f"held out: {count} of {len(splits)} are not tested by exactly one of the "
            f"{len(models)} models, the first is {names[first]} on {splits[first]}; give the "
            "run with all folds, name chromosomes as the model does (--contigs), or leave "
            "--held-out out"
        )
    return (chosen[None] == np.arange(len(models))[:, None]) | (chosen[None] < 0)


def fold_and_training(
    models: Sequence[Model], splits: Sequence[str], speaking: Bool[np.ndarray, "M N"]
) -> tuple[list[str], list[str]]:
    """For each example the fold that speaks ("mean of 12" for several), and whether it has seen it.

    The second is yes (some speaker trained on that chromosome), validation (was stopped by it), no,
    or unknown (some speaker does not say).
    """
    folds, seen = [], []
    for split, column in zip(splits, speaking.T, strict=True):
        chosen = [model for model, speaks in zip(models, column, strict=True) if speaks]
        only = chosen[0].info.fold or chosen[0].name
        folds.append(only if len(chosen) == 1 else f"mean of {len(chosen)}")
        roles = {role_of(model.info, split) for model in chosen}
        answers = {"train": "yes", "unknown": "unknown", "valid": "validation"}
        answer = next((answers[role] for role in answers if role in roles), "no")
        seen.append(answer if split else "unknown")  # a sequence without a place
    return folds, seen


def mention_strands(models: Sequence[Model], average_strands: bool) -> None:
    """Says so where one strand is predicted by models whose report holds the mean of both."""
    if not average_strands and any(model.info.both_strands for model in models):
        logging.info(
            "one strand is predicted; the report of these models' run holds the mean of both "
            "(--average-strands)"
        )


def model_folders(path: Path, kind: Kind) -> list[Path]:
    """The directories with checkpoints that a path stands for."""
    if not path.is_dir():
        raise ValueError(f"{path}: no such directory; expected a model or a run directory")
    below = [entry.name for entry in path.iterdir() if _is_model(entry) and entry.name[0] != "."]
    candidates = [path]
    if not _is_model(path):
        folds = [name for name in below if name != "encoder"]
        candidates = [path / name for name in chromosomes.natural_order(folds)]
    if not candidates:
        raise ValueError(
            f"{path} holds no model and no folds with models; expected checkpoints/ in it or fold_*"
        )
    if kind == "activity":
        candidates = [f / "encoder" if _is_model(f / "encoder") else f for f in candidates]
    return candidates


def _is_model(path: Path) -> bool:
    return (path / checkpoint.FOLDER).is_dir()


def _check_alike(models: Sequence[Model]) -> None:
    first = models[0]
    for model in models[1:]:
        for field in _SHARED:
            one, other = getattr(first.info, field), getattr(model.info, field)
            if one != other:
                raise ValueError(
                    f"models {first.name} and {model.name} differ in {field} ({one!r} and "
                    f"{other!r}); predict with each on its own"
                )
        shapes = [dataclasses.asdict(m.info.model) for m in (first, model)]
        if shapes[0]["window_bp"] != shapes[1]["window_bp"]:
            raise ValueError(f"models {first.name} and {model.name} have windows of another width")
