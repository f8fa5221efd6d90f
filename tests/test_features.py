"""Feature schemas: order, transforms and units of every scalar input, as the fact sheet states
them.
"""

import dataclasses
import json

import numpy as np
import pytest

from epinformer_jax.data import features
from epinformer_jax.data.features import Feature
from epinformer_jax.data.records import GeneExample
from epinformer_jax.data.tables import MRNA_FEATURES

LINK_NAMES = ("contact", "activity", "h3k27ac", "dnase")  # not in the schema's order
GENE_NAMES = ("promoter_activity", *reversed(MRNA_FEATURES), "promoter_dnase", "promoter_h3k27ac")
DISTANCE = np.array([-1500, 25_000, -99_999])
CONTACT = np.array([0.0, 0.0125, 3.0])
ACTIVITY = np.array([0.0, 1.5, 40.0])
H3K27AC = np.array([0.0, 9.0, 20.0])
DNASE = np.array([0.0, 0.25, 80.0])
PROMOTER_ACTIVITY, PROMOTER_DNASE, PROMOTER_H3K27AC = 9.25, 3.5, 24.0
MRNA = {name: 0.1 * number - 0.3 for number, name in enumerate(MRNA_FEATURES)}


def example(distance=DISTANCE) -> GeneExample:
    count = len(distance)
    signals = np.stack([CONTACT, ACTIVITY, H3K27AC, DNASE], axis=1)[:count]
    genes = {
        **MRNA,
        "promoter_activity": PROMOTER_ACTIVITY,
        "promoter_dnase": PROMOTER_DNASE,
        "promoter_h3k27ac": PROMOTER_H3K27AC,
    }
    return GeneExample(
        gene_id="G",
        gene_name="",
        chrom="chr1",
        split="chr1",
        tss=200_000,
        strand="+",
        promoter=np.ones(4, np.uint8),
        element_start=np.asarray(distance, np.int64) + 200_000,
        element_end=np.asarray(distance, np.int64) + 200_001,
        element_length=np.ones(count, np.int32),
        element_sequence=np.ones(count, np.uint8),
        distance_bp=np.asarray(distance, np.int64),
        link_signals=signals.astype(np.float32),
        gene_signals=np.array([genes[name] for name in GENE_NAMES], np.float32),
        labels=np.zeros(1, np.float32),
    )


def arrays(name, preset, one=None):
    schema = features.schema(name, preset)
    one = example() if one is None else one
    links = features.link_array(schema, one, LINK_NAMES, GENE_NAMES)
    return links, features.gene_array(schema, one, GENE_NAMES)


def with_promoter_slot(promoter, *columns):
    """[1 + elements, features] from the promoter's values and a column for each feature."""
    table = np.stack([np.concatenate([[p], c]) for p, c in zip(promoter, columns, strict=True)], 1)
    return table.astype(np.float32)


KB = np.abs(DISTANCE) / 1000


@pytest.mark.parametrize(
    ("preset", "columns"),
    [
        ("PE", (KB,)),
        ("PE-Activity", (KB, ACTIVITY)),
        ("PE-Activity-HiC", (KB, np.log10(1 + CONTACT), ACTIVITY)),
    ],
)
def test_published_link_features_have_the_published_order_and_scale(preset, columns):
    links, _ = arrays("published", preset)
    expected = with_promoter_slot([0.0] * len(columns), *columns)
    np.testing.assert_allclose(links, expected, rtol=1e-6)
    assert links.dtype == np.float32 and not links[0].any()


@pytest.mark.parametrize(
    ("preset", "promoter"),
    [
        ("promoter", 0.0),
        ("PE", 0.0),
        ("PE-Activity", PROMOTER_ACTIVITY),
        ("PE-Activity-HiC", PROMOTER_ACTIVITY),
    ],
)
def test_published_gene_features_are_the_mrna_features_then_promoter_activity(preset, promoter):
    _, genes = arrays("published", preset)
    expected = [*(MRNA[name] for name in MRNA_FEATURES), promoter]
    np.testing.assert_allclose(genes, expected, rtol=1e-6)
    assert genes.dtype == np.float32


def test_promoter_preset_has_no_link_features_and_no_elements():
    for name in features.SCHEMAS:
        links, _ = arrays(name, "promoter")
        assert links.shape == (4, 0)
        assert not features.schema(name, "promoter").use_elements
        assert features.schema(name, "PE").use_elements


def test_pipeline2026_is_raw_with_ones_and_promoter_activity_in_the_promoter_slot():
    distance = np.abs(DISTANCE).astype(float)
    own = np.log(1 + PROMOTER_ACTIVITY)
    for preset, promoter, columns in (
        ("PE", [1.0], (distance,)),
        ("PE-Activity", [1.0, own], (distance, ACTIVITY)),
        ("PE-Activity-HiC", [1.0, own, 1.0], (distance, ACTIVITY, CONTACT)),
    ):
        links, genes = arrays("pipeline2026", preset)
        np.testing.assert_allclose(links, with_promoter_slot(promoter, *columns), rtol=1e-6)
        expected = own if preset != "PE" else 0.0
        np.testing.assert_allclose(genes[-1], expected, rtol=1e-6)


def test_log_signals_keeps_dnase_and_h3k27ac_apart():
    links, genes = arrays("log_signals", "PE-Activity-HiC")
    own = [np.log(1 + x) for x in (PROMOTER_ACTIVITY, PROMOTER_DNASE, PROMOTER_H3K27AC)]
    expected = with_promoter_slot(
        [-1.0, 0.0, *own],
        np.log10(0.1 + KB),
        3 + np.log10(1e-4 + CONTACT),
        np.log(1 + ACTIVITY),
        np.log(1 + DNASE),
        np.log(1 + H3K27AC),
    )
    np.testing.assert_allclose(links, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(genes[8:], own, rtol=1e-6)
    without, _ = arrays("log_signals", "PE-Activity")
    np.testing.assert_array_equal(without, np.delete(links, 1, axis=1))


def test_contact_is_transformed_as_published():
    """Contact hardly moves the published weights: no golden output would notice a wrong scale."""
    published = features.TRANSFORMS["log10_1p"]
    assert published(np.array([0.0, 9.0, 99.0])).tolist() == [0.0, 1.0, 2.0]
    np.testing.assert_allclose(published(np.array([0.0125])), 0.0053950319, rtol=1e-7)
    own = features.TRANSFORMS["log10_contact"]
    np.testing.assert_allclose(own(np.array([0.0, 0.0009, 0.9999])), [-1, 0, 3], atol=1e-12)
    (contact,) = (
        f
        for f in features.schema("published", "PE-Activity-HiC").link_features
        if f.source == "contact"
    )
    assert (contact.transform, contact.unit) == ("log10_1p", "log10(1 + contact)")


def test_an_unknown_base_counts_as_the_schema_says():
    assert features.schema("published", "PE").unknown_base == 0.25
    assert features.schema("pipeline2026", "PE").unknown_base == 0.0


def test_a_gene_without_elements_has_its_promoter_slot_only():
    for name in features.SCHEMAS:
        links, _ = arrays(name, "PE-Activity-HiC", example(DISTANCE[:0]))
        full, _ = arrays(name, "PE-Activity-HiC")
        np.testing.assert_array_equal(links, full[:1])


@pytest.mark.parametrize("name", features.SCHEMAS)
@pytest.mark.parametrize("preset", features.PRESETS)
def test_every_schema_survives_json(name, preset):
    schema = features.schema(name, preset)
    assert features.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


def test_a_missing_column_is_named_with_its_table():
    schema = features.schema("log_signals", "PE-Activity")
    with pytest.raises(
        ValueError, match="the column 'dnase' of the links table.*contact, activity"
    ):
        features.link_array(schema, example(), LINK_NAMES[:2], GENE_NAMES)
    with pytest.raises(ValueError, match="the column 'promoter_dnase' of the genes table"):
        features.gene_array(schema, example(), GENE_NAMES[:-2])


def test_a_column_the_preset_leaves_out_is_not_needed():
    schema = features.schema("log_signals", "PE")
    features.link_array(schema, example(), (), GENE_NAMES[:-2])
    features.gene_array(schema, example(), GENE_NAMES[1:-2])


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="schema 'publishd' is unknown; known are published"):
        features.schema("publishd", "PE")
    with pytest.raises(ValueError, match="preset 'HiC' is unknown; known are promoter, PE"):
        features.schema("published", "HiC")
    with pytest.raises(ValueError, match="feature x: transform 'log' is unknown"):
        Feature("x", "log", "")


def test_a_feature_is_named_after_its_transform():
    assert Feature("activity", "raw", "RPM").name == "activity"
    assert Feature("contact", "log10_1p", "").name == "log10_1p(contact)"


def test_reading_features_changes_no_example():
    one, copy = example(), example()
    arrays("log_signals", "PE-Activity-HiC", one)
    assert dataclasses.replace(one) == copy
