"""Converted published weights give the published outputs on inputs made by a formula (spec 11).

Tolerances are 1e-4 on every output, as promised; measured differences are about 1e-6. Nothing here
needs PyTorch: the expected values are files beside the weights.
"""

import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from epinformer_jax import torch_names, torch_zip
from epinformer_jax.model import functional

TOLERANCE = 1e-4
WINDOW_BP, ELEMENTS = 2000, 5
GENE_FEATURES = (-0.1, -0.8, -0.3, 0.5, 0.6, 0.4, 0.35, 9.6, 1.25)
UNKNOWN = 4
PREDICT = jax.jit(functional.predict, static_argnums=0)
ACTIVITY = jax.jit(functional.activity, static_argnums=0)


class Case(NamedTuple):
    """One entry of a golden file: where it stands, the weights it came from, the slots to run."""

    file: str
    entry: str
    weights: str
    slots: int
    has_unknown: bool


PLAIN, WITH_N = "formula_inputs.json", "formula_inputs_with_N.json"
RNA, CAGE = "expression_K562_PE_Activity_HiC_RNA", "expression_K562_PE_Activity_CAGE"
EXPRESSION_CASES = [
    Case(PLAIN, "HiC_RNA_K562_f1", f"{RNA}/fold_1.pt", 61, False),
    Case(PLAIN, "PEA_CAGE_K562_f1", f"{CAGE}/fold_1.pt", 1 + ELEMENTS, False),
    Case(WITH_N, "HiC_RNA_K562_f7", f"{RNA}/fold_7.pt", 1 + ELEMENTS, True),
    Case(WITH_N, "HiC_RNA_K562_f11", f"{RNA}/fold_11.pt", 1 + ELEMENTS, True),
]
ENCODER_CASES = [
    Case(PLAIN, "encoder_K562_Log2_f1", "encoder_K562/fold_1.pt", 0, False),
    Case(WITH_N, "encoder_K562_Log2_f7", "encoder_K562/fold_7.pt", 0, True),
]


def formula_bases(sequence, length, has_unknown):
    """Bases 0..3 of sequence k, 4 where it is unknown."""
    i = np.arange(length)
    bases = (i * (sequence + 3) // 7 + i * i * (sequence + 1)) % 4
    return np.where(has_unknown & (i % 97 == sequence), UNKNOWN, bases)


def one_hot(bases):
    return np.concatenate([np.eye(4), np.full((1, 4), 0.25)])[bases].astype(np.float32)


def formula_gene(slots, link_features, has_unknown):
    """The gene of spec 11: a full promoter, five elements of growing length, empty slots."""
    bases = np.zeros((1, slots, WINDOW_BP, 4), np.float32)
    valid = np.zeros((1, slots, WINDOW_BP), bool)
    for slot in range(1 + ELEMENTS):
        codes = formula_bases(slot, WINDOW_BP, has_unknown)
        half = 1000 if slot == 0 else 300 + 50 * slot
        if slot == 0 and has_unknown:
            codes[:150] = UNKNOWN
        inside = slice(1000 - half, 1000 + half)
        bases[0, slot, inside] = one_hot(codes)[inside]
        valid[0, slot, inside] = True
    k = np.arange(1, 1 + ELEMENTS)
    distance, contact, activity = 7.5 * k, np.log10(1 + 0.5 * k), 0.2 * k
    columns = [distance, activity] if link_features == 2 else [distance, contact, activity]
    links = np.zeros((1, slots, link_features), np.float32)
    links[0, 1 : 1 + ELEMENTS] = np.stack(columns, axis=1)
    genes = np.array([GENE_FEATURES], np.float32)
    return tuple(map(jnp.asarray, (bases, valid, links, genes)))


def model(shared_data, case):
    file = torch_zip.read_torch_file(shared_data / "weights" / case.weights)
    config = torch_names.recognise(file.tensors, run_name=file.run_name)
    variables = torch_names.variables_of(file.tensors, config)
    return config, jax.tree.map(jnp.asarray, variables)


def golden(shared_data, case):
    return json.loads((shared_data / "golden" / case.file).read_text())[case.entry]


@pytest.mark.parametrize("case", EXPRESSION_CASES, ids=lambda case: case.entry)
def test_expression_and_attention_are_the_published_ones(case, shared_data):
    config, variables = model(shared_data, case)
    inputs = formula_gene(case.slots, config.link_features, case.has_unknown)
    prediction, attention = PREDICT(config, variables, *inputs)
    expected = golden(shared_data, case)
    np.testing.assert_allclose(prediction, [expected["expr"]], rtol=0, atol=TOLERANCE)
    rows = expected["promoter_row_attention_per_layer_tokens0..5"]
    np.testing.assert_allclose(attention[0, :, : 1 + ELEMENTS], rows, rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(attention[0, :, 1 + ELEMENTS :], 0)


@pytest.mark.parametrize("case", ENCODER_CASES, ids=lambda case: case.entry)
def test_activity_of_both_strands_is_the_published_one(case, shared_data):
    config, variables = model(shared_data, case)
    codes = [formula_bases(k, config.window_bp, case.has_unknown) for k in range(8)]
    forward = jnp.asarray(one_hot(np.stack(codes)))
    valid = jnp.ones(forward.shape[:2], bool)
    expected = golden(shared_data, case)
    for strand, bases in (("fwd", forward), ("rc", forward[:, ::-1, ::-1])):
        got = ACTIVITY(config, variables, bases, valid)
        np.testing.assert_allclose(got, expected[strand], rtol=0, atol=TOLERANCE, err_msg=strand)


def test_unknown_bases_matter_to_the_golden_values(shared_data):
    case = ENCODER_CASES[1]
    config, variables = model(shared_data, case)
    codes = [formula_bases(k, config.window_bp, False) for k in range(8)]
    bases = jnp.asarray(one_hot(np.stack(codes)))
    got = ACTIVITY(config, variables, bases, jnp.ones(bases.shape[:2], bool))
    assert np.abs(got - np.array(golden(shared_data, case)["fwd"])).max() > 100 * TOLERANCE
