"""Tiny expression models of two folds, and the made-up genes they speak about."""

import dataclasses
import functools

import jax
import numpy as np
import tiny_inputs
import tiny_models

from epinformer_jax.analysis import ensembles, inputs
from epinformer_jax.data import features
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.model.architecture import EncoderConfig, ExpressionConfig
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

RULE = ElementRule(min_distance_bp=900, max_distance_bp=8000, max_elements=3, window_bp=400)
EXPRESSION = ExpressionConfig(
    encoder=EncoderConfig(stem_channels=4, channels=(4, 3, 4)),
    window_bp=400,
    slots=4,
    summary_channels=4,
    summary_dilations=(1, 2),
    summary_outputs=4,
    embedding=8,
    heads=2,
    layers=2,
    hidden=4,
)
PARTS = {
    "fold_1": {"train": ["chr2"], "valid": ["chr10"], "test": ["chr1"]},
    "fold_2": {"train": ["chr1"], "valid": ["chr10"], "test": ["chr2", "chrX"]},
}
TRANSFORM = {"name": "z_log10", "offset": 0.1, "mean": 0.2, "sd": 1.1}


@functools.cache
def weights(config: ExpressionConfig, seed: int):
    """Weights of which every part matters, as NumPy arrays."""
    return jax.device_get(tiny_models.random_variables(config, seed=seed))


def model(fold: str = "fold_1", *, seed: int = 1, config=EXPRESSION, **fields) -> ensembles.Model:
    """One model in memory."""
    described = {
        "label": "rna",
        "label_transform": TRANSFORM,
        "schema": features.schema("published", "PE-Activity-HiC").to_dict(),
        "element_rule": RULE.to_dict(),
        "promoter_bp": 400,
    }
    info = ModelInfo(config, fold=fold, chromosomes=PARTS[fold], **(described | fields))
    return ensembles.Model(fold, weights(config, seed), info)


def models() -> list[ensembles.Model]:
    """Both folds."""
    return [model(fold, seed=seed) for seed, fold in enumerate(PARTS, 1)]


def save(directory, **fields):
    """Both folds as a run directory; returns it."""
    for seed, fold in enumerate(PARTS, 1):
        checkpoint.save_model(directory / fold, *model(fold, seed=seed, **fields)[1:])
    return directory


def genes(folder) -> inputs.GeneInputs:
    """The genes of tiny_inputs: G1 has two elements, G2 two, G3 one, G4 none."""
    paths = tiny_inputs.write_tables(folder)
    with Genome(paths["fasta"], folder / "cache") as genome:
        return inputs.from_tables(
            paths["genes"], paths["links"], genome, rule=RULE, promoter_bp=400
        )


def without_element(example, place: int):
    """The record of a gene that never had its element number `place`."""
    codes = inputs.element_codes(example)
    rest = [own for index, own in enumerate(codes) if index != place]
    names = ("element_start", "element_end", "element_length", "distance_bp")
    left = {name: np.delete(getattr(example, name), place) for name in names}
    return dataclasses.replace(
        example,
        element_sequence=np.concatenate([np.empty(0, np.uint8), *rest]),
        link_signals=np.delete(example.link_signals, place, axis=0),
        **left,
    )
