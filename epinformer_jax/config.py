"""Every configuration field: default, unit, meaning, check. Files in configs/ only choose; nothing
is computed there.

    config = default()
    config.train.epochs = 5        # an unknown field is an error that names the nearest known one
    check(config)                  # a wrong value is an error that names field, value and what is
    allowed

Defaults are the published recipe (spec sections 1 and 4).
"""

import dataclasses
import difflib
import hashlib
import json
import math
import os
import re
import runpy
import traceback
from collections.abc import Callable
from typing import Any

import ml_collections


@dataclasses.dataclass(frozen=True)
class Field:
    """One field: its default, what it means (unit last), and which values are allowed."""

    default: Any
    meaning: str
    allowed: Callable[[Any], bool]
    expected: str


def _one_of(default: str, meaning: str, *choices: str) -> Field:
    return Field(default, meaning, lambda v: v in choices, f"one of {', '.join(choices)}")


def _integer(default: int, meaning: str, least: int = 1, most: int | None = None) -> Field:
    expected = f"a whole number of at least {least}" + (f" and at most {most}" if most else "")

    def allowed(v):
        is_whole = isinstance(v, int) and not isinstance(v, bool)
        return is_whole and v >= least and (most is None or v <= most)

    return Field(default, meaning, allowed, expected)


def _number(default: float, meaning: str, least: float = 0.0, most: float = float("inf")) -> Field:
    expected = f"a number of at least {least}" + (f" and at most {most}" if most < 1e9 else "")

    def allowed(v):
        is_number = isinstance(v, int | float) and not isinstance(v, bool)
        return is_number and math.isfinite(v) and least <= v <= most

    return Field(default, meaning, allowed, expected)


def _text(default: str, meaning: str) -> Field:
    return Field(default, meaning, lambda v: isinstance(v, str), "text")


def _flag(default: bool, meaning: str) -> Field:
    return Field(default, meaning, lambda v: isinstance(v, bool), "True or False")


def _integers(default: tuple[int, ...], meaning: str) -> Field:
    def allowed(v):
        return (
            isinstance(v, tuple | list) and len(v) > 0 and all(type(i) is int and i > 0 for i in v)
        )

    return Field(default, meaning, allowed, "whole numbers above 0")


def _texts(default: tuple[str, ...], meaning: str) -> Field:
    def allowed(v):
        return isinstance(v, tuple | list) and all(isinstance(i, str) for i in v)

    return Field(default, meaning, allowed, "a list of names")


def _fitting(
    learning_rate: float, batch_size: int, epochs: int, patience: int, loss: str
) -> dict[str, Field]:
    return {
        "loss": _one_of(loss, "what is minimised", "smooth_l1", "mse", "l1kl"),
        "learning_rate": _number(learning_rate, "AdamW step size"),
        "weight_decay": _number(1e-6, "AdamW decoupled decay"),
        "schedule": _one_of("constant", "learning rate after warm-up", "constant", "cosine"),
        "warmup_steps": _integer(0, "linear warm-up, steps", least=0),
        "batch_size": _integer(batch_size, "examples a step, over all devices"),
        "epochs": _integer(epochs, "most passes over the training examples"),
        "patience_epochs": _integer(
            patience, "epochs without a better score before stopping; 0: never", least=0
        ),
        "score": _one_of(
            "pearson_squared", "validation score", "pearson", "pearson_squared", "loss"
        ),
    }


FIELDS: dict[str, Any] = {
    "task": _one_of("expression", "which model is trained", "expression", "activity"),
    "name": _text("", "name of the run, for the report"),
    "seed": _integer(66, "seed of weights, order and dropout", least=0, most=2**32 - 1),
    "distributed": _one_of(
        "auto",
        "joins other processes (TPU pod, SLURM, JAX_COORDINATOR_ADDRESS)",
        "auto",
        "on",
        "off",
    ),
    "compilation_cache": _text(
        "auto", "compiled programs on disk: auto (the user's cache folder), off, or a folder"
    ),
    "data": {
        "genes": _text("", "directory of a genes data set (python -m data_prep build)"),
        "windows": _text("", "directory of a windows data set"),
        "folds": _text("published", "`published`, or a table with columns split, fold, role"),
        "fold_names": _texts((), "folds to run; empty: all of the table"),
        "label": _text("rna", "label column the expression model predicts"),
        "label_unit": _text("", "unit of the label, for tables and plots"),
        "label_transform": _text(
            "",
            "how the label was made, such as z_log10,offset=0.1,mean=0.2,sd=1.1, for fold changes; "
            "empty: as the data set says",
        ),
        "activity_label": _text("log2_activity", "label column the activity model predicts"),
        "genome": _text("", "name of the assembly, stored with the model"),
        "cell": _text("", "cell type, stored with the model"),
        "ceiling": _text(
            "",
            "JSON file with the key noise_ceiling_pearson, shown beside the score (simulated data)",
        ),
        "control": _one_of(
            "none", "destroys one thing on purpose", "none", "scrambled_sequence", "permuted_labels"
        ),
        "strands": _one_of(
            "both",
            "strands of windows in training; random: one drawn anew each step",
            "forward",
            "both",
            "random",
        ),
        "flip": _flag(False, "each sequence of a gene on a random strand, in training"),
        "shift_bp": _integer(0, "windows move by up to so many bases in training", least=0),
    },
    "features": {
        "schema": _one_of("published", "scalar inputs", "published", "pipeline2026", "log_signals"),
        "preset": _one_of(
            "PE-Activity-HiC", "which inputs", "promoter", "PE", "PE-Activity", "PE-Activity-HiC"
        ),
    },
    "model": {
        "stem_channels": _integer(256, "channels of the stem"),
        "stem_width": _integer(8, "width of the stem's convolution, bases"),
        "channels": _integers((128, 64, 64, 128), "channels of the encoder's blocks"),
        "window_bp": _integer(2000, "window of promoter and elements, bases", least=16),
        "max_elements": _integer(60, "elements a gene keeps, nearest first"),
        "summary_channels": _integer(64, "channels of the dilated convolutions"),
        "summary_dilations": _integers((2, 4, 6), "their dilations"),
        "summary_outputs": _integer(32, "channels that leave them"),
        "summary_batch_norm": _flag(True, "BatchNorm between them"),
        "embedding": _integer(64, "width of a slot's embedding"),
        "heads": _integer(4, "attention heads"),
        "layers": _integer(3, "attention layers"),
        "hidden": _integer(128, "width of the expression head"),
        "statistics": _one_of("padded", "what BatchNorm counts in training", "padded", "real"),
        "compute_dtype": _one_of("float32", "of convolutions and attention", "float32", "bfloat16"),
        "activity_window_bp": _integer(256, "window of the activity model, bases", least=16),
        "activity_hidden": _integer(256, "width of the activity head"),
        "activity_dropout": _number(0.1, "dropout of the activity head, share", most=0.99),
        "activity_encoder_dropout": _number(
            0.0, "dropout before the activity head, share", most=0.99
        ),
        "activity_pool": _one_of(
            "flatten", "how positions enter the activity head", "flatten", "mean"
        ),
        "activity_strands": _one_of(
            "forward", "strands the activity model averages in prediction", "forward", "both"
        ),
    },
    "encoder": {
        "source": _one_of(
            "none", "where the model's encoder starts", "none", "pretrain", "directory"
        ),
        "directory": _text("", "an activity model, or a run with fold_1, fold_2, ..."),
        "mode": _one_of(
            "tuned", "what training does to it", "tuned", "frozen", "frozen_as_published"
        ),
    },
    "train": {
        **_fitting(5e-4, 16, 100, 3, "smooth_l1"),
        "layouts": _integer(16, "batch shapes to compile, 1 to 32: more waste less", most=32),
        "first_convolution": _one_of(
            "auto",
            "by convolving or from tables of k-mers; auto: tables on CPU where that is less work",
            "auto",
            "direct",
            "table",
        ),
        "folds_in_parallel": _integer(
            0,
            "folds at once, each needs its memory; 0: one on each device; several may share a CPU",
            least=0,
        ),
        "encoder_cache": _one_of(
            "auto",
            "keeps a frozen encoder's outputs on disk while a fold trains",
            "auto",
            "on",
            "off",
        ),
        "encoder_cache_dtype": _one_of("float32", "of these outputs", "float32", "bfloat16"),
        "encoder_cache_directory": _text(
            "", "local folder for them, about 4 GB a fold of K562; empty: the fold's own"
        ),
    },
    "second_stage": {
        "epochs": _integer(
            0,
            "passes after a first stage without promoter signals, at most; 0: a single stage",
            least=0,
        ),
        "learning_rate": _number(5e-5, "AdamW step size of the second stage"),
    },
    "pretrain": _fitting(5e-4, 64, 50, 5, "mse"),
}


def default() -> ml_collections.ConfigDict:
    """All fields at their defaults; unknown fields can be neither set nor read."""
    return ml_collections.ConfigDict(_defaults(FIELDS)).lock()


def check(config: ml_collections.ConfigDict) -> None:
    """Checks every value.

    Raises:
      ValueError: an unknown field, a missing one, or a value that is not allowed; says which are.
    """
    known = dict(_walk(FIELDS))
    given = dict(_walk(config.to_dict()))
    for path in given:
        check_name(path)
    for path, field in known.items():
        if path not in given:
            raise ValueError(
                f"config.{path} is missing; start from epinformer_jax.config.default()"
            )
        if not field.allowed(given[path]):
            raise ValueError(
                f"config.{path}={given[path]!r}: expected {field.expected} ({field.meaning})"
            )
    _check_together(config)


def check_name(path: str) -> None:
    """Checks the name of one field, e.g. train.epochs.

    Raises:
      ValueError: there is no such field; names the nearest one.
    """
    known = dict(_walk(FIELDS))
    if path not in known:
        # by the last part, as a section in common makes no two fields alike; its own fields first
        section, _, name = path.rpartition(".")
        ours_last = sorted(known, key=lambda field: field.rpartition(".")[0] == section)
        by_name = {field.rpartition(".")[2]: field for field in ours_last}
        near = difflib.get_close_matches(name, by_name, n=1)
        hint = f"did you mean config.{by_name[near[0]]}?" if near else "--fields lists all"
        raise ValueError(f"config.{path} is not a field; {hint}")


def load_file(path: str) -> ml_collections.ConfigDict:
    """What get_config() of a configuration file returns.

    Raises:
      ValueError: there is no such file, or it fails (it is Python: in any way); names file and
        line.
    """
    if not os.path.isfile(path):
        raise ValueError(f"{path}: there is no such configuration file; configs/ holds examples")
    try:
        content = runpy.run_path(path)
        if "get_config" in content:
            return content["get_config"]()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1]
        # a locked configuration adds all its fields to what it says
        reason = re.sub(r'Other fields present: "\{.*\}"', "", str(error), flags=re.DOTALL)
        raise ValueError(f"{path}:{line}: {' '.join(reason.split())}") from None
    raise ValueError(f"{path}: defines no function get_config; configs/ holds examples")


def fingerprint(config: ml_collections.ConfigDict) -> str:
    """sha256 of all values: the same configuration has the same fingerprint."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def to_json(config: ml_collections.ConfigDict) -> str:
    """Readable and stable."""
    return json.dumps(config.to_dict(), indent=1, sort_keys=True)


def describe() -> str:
    """One line a field: name, default, meaning."""
    return "\n".join(
        f"config.{path} = {field.default!r}  # {field.meaning}; {field.expected}"
        for path, field in _walk(FIELDS)
    )


def _check_together(config) -> None:
    if config.task == "expression" and not config.data.genes:
        raise ValueError("config.data.genes is empty: give the directory of a genes data set")
    needs_windows = config.task == "activity" or config.encoder.source == "pretrain"
    if needs_windows and not config.data.windows:
        raise ValueError(
            "config.data.windows is empty, but this run trains an activity model: give the "
            "directory of a windows data set"
        )
    if config.task == "activity" and config.encoder.source == "pretrain":
        raise ValueError(
            "config.encoder.source='pretrain' is for the expression model; to start an activity "
            "model "
            "from another one, train that first, then set config.encoder.source='directory' and "
            "config.encoder.directory"
        )
    if config.task == "activity" and config.encoder.mode != "tuned":
        raise ValueError(
            f"config.encoder.mode={config.encoder.mode!r}: the activity model always trains its "
            "encoder; set it to tuned"
        )
    if config.second_stage.epochs and (
        config.task != "expression" or config.features.preset in ("promoter", "PE")
    ):
        raise ValueError(
            f"config.second_stage.epochs={config.second_stage.epochs}: the second stage switches "
            f"promoter signals on, which task={config.task!r} with "
            f"features.preset={config.features.preset!r} does not have; set it to 0"
        )
    if config.train.encoder_cache == "on":
        wrong = [
            f"config.{name} must be {wanted!r}, got {found!r}"
            for name, wanted, found in (
                ("encoder.mode", "frozen", config.encoder.mode),
                ("data.shift_bp", 0, config.data.shift_bp),
            )
            if found != wanted
        ]
        if wrong:
            raise ValueError(
                "config.train.encoder_cache='on' needs outputs that stay alike: "
                f"{'; '.join(wrong)}. Set that, or encoder_cache to auto"
            )
    if config.encoder.source == "directory" and not config.encoder.directory:
        raise ValueError(
            "config.encoder.directory is empty, but config.encoder.source is 'directory'"
        )
    if config.encoder.source == "none" and config.encoder.mode != "tuned":
        raise ValueError(
            f"config.encoder.mode={config.encoder.mode!r} would freeze random weights; set "
            "config.encoder.source to "
            f"pretrain or directory, or the mode to tuned"
        )


def _defaults(fields):
    return {
        name: _defaults(field) if isinstance(field, dict) else field.default
        for name, field in fields.items()
    }


def _walk(tree, prefix=""):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
