"""Mutagenesis of regions and genes: each effect is that of mutating by hand and predicting anew."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny_inputs
import tiny_models

from epinformer_jax import cli, load_model
from epinformer_jax.analysis import (
    activity,
    ensembles,
    inputs,
    mutagenesis,
    predict,
    saturation,
)
from epinformer_jax.analysis.mutagenesis import Stretch, mutate_genes, mutate_stretches
from epinformer_jax.analysis.mutagenesis_genes import Site, sites_of
from epinformer_jax.data import features
from epinformer_jax.data.elements import ElementRule
from epinformer_jax.data.genome import Genome
from epinformer_jax.model.architecture import ActivityConfig, EncoderConfig, ExpressionConfig
from epinformer_jax.train import checkpoint
from epinformer_jax.train.checkpoint import ModelInfo

pytestmark = pytest.mark.usefixtures("quick_compilation")

ATOL = 1e-5
ENCODER = EncoderConfig(stem_channels=4, channels=(4, 3))
RULE = ElementRule(min_distance_bp=900, max_distance_bp=8000, max_elements=3, window_bp=96)
EXPRESSION = ExpressionConfig(
    encoder=ENCODER,
    window_bp=96,
    slots=4,
    summary_channels=4,
    summary_dilations=(1, 2),
    summary_outputs=4,
    embedding=8,
    heads=2,
    layers=2,
    hidden=4,
)
ACTIVITY = ActivityConfig(encoder=ENCODER, window_bp=32, hidden=4)
PARTS = {
    "fold_1": {"train": ["chr2"], "valid": ["chr10"], "test": ["chr1"]},
    "fold_2": {"train": ["chr1"], "valid": ["chr10"], "test": ["chr2", "chrX"]},
}
GENES = [
    tiny_inputs.gene_row("G1", "chr1", 3000, "+", 1.25),
    tiny_inputs.gene_row("G2", "chr2", 20, "-", -0.5),
]
LINKS = [
    ["G1", "chr1", 4000, 4031, 1.5, 0.25],
    ["G1", "chr1", 5000, 5200, 3.0, 0.75],
    ["G2", "chr2", 1500, 1540, 4.0, 0.5],
]


def info_of(config, fold):
    described = {
        "label": "rna",
        "label_transform": {"name": "z_log10", "offset": 0.1, "mean": 0.2, "sd": 1.1},
        "schema": features.schema("published", "PE-Activity-HiC").to_dict(),
        "element_rule": RULE.to_dict(),
        "promoter_bp": 96,
    }
    if config.kind == "activity":
        described = {"label": "log2_activity", "label_transform": {"name": "log2", "offset": 0.1}}
    return ModelInfo(config, fold=fold, chromosomes=PARTS[fold], **described)


def model_of(config, fold="fold_1", seed=1):
    variables = jax.device_get(tiny_models.random_variables(config, seed=seed))
    return ensembles.Model(fold, variables, info_of(config, fold))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutagenesis")
    tiny_inputs.write_tables(folder, GENES, LINKS)
    return folder


@pytest.fixture(scope="module")
def genome(folder):
    with Genome(folder / "tiny.fa", folder / "cache") as genome:
        yield genome


@pytest.fixture(scope="module")
def genes(folder, genome):
    return inputs.from_tables(
        folder / "genes.tsv", folder / "links.tsv", genome, rule=RULE, promoter_bp=96
    )


def region(genome, chrom="chr1", start=500, end=545):
    (stretch,) = mutagenesis.read_regions([(chrom, start, end, "here")], genome, window_bp=32)
    return stretch


def mutants(codes):
    """(base, position, sequence) of every substitution."""
    for base in range(4):
        for position in range(len(codes)):
            mutant = codes.copy()
            mutant[position] = 1 << base
            yield base, position, mutant


def predicted(model, windows):
    names = [str(row) for row in range(len(windows))]
    return activity.predict_activity([model], names, windows)["log2_activity"].to_numpy()


# --- regions


@pytest.mark.parametrize(("start", "end"), [(500, 580), (0, 19), (8985, 9000)])
def test_region_effects_are_those_of_mutated_windows(genome, start, end):
    """Windows every 8 bp, each scoring the 8 bp in its middle; also past either end of a contig."""
    model = model_of(ACTIVITY)
    (scan,) = mutate_stretches([model], [region(genome, "chr1", start, end)], ensemble="all")
    windows, places = [], []
    for position in range(end - start):
        first = start + position // 8 * 8 + 4 - 16
        codes = genome.fetch("chr1", first, first + 32)
        at = start + position - first
        for base in range(4):
            mutant = codes.copy()
            mutant[at] = 1 << base
            windows += [codes, mutant]
            places.append((base, position))
    found = predicted(model, windows)
    expected = np.zeros((4, end - start))
    for (base, position), effect in zip(places, found[1::2] - found[::2], strict=True):
        expected[base, position] = effect
    np.testing.assert_allclose(scan.effects, expected, rtol=0, atol=ATOL)
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_array_equal(scan.codes, genome.fetch("chr1", start, end))
    np.testing.assert_allclose(scan.reference, found[: 8 * (end - start) : 8], rtol=0, atol=ATOL)
    standing = scan.one_hot.astype(bool)
    assert (scan.effects[standing] == 0).all()


@pytest.mark.parametrize("length", [11, 32, 45])
def test_sequence_effects_are_those_of_mutated_sequences(length):
    """A short one stands in the middle of the window; over a long one windows stay inside."""
    model = model_of(ACTIVITY)
    codes = tiny_inputs.random_codes(np.random.default_rng(3), length, 0.1)
    (scan,) = mutate_stretches([model], [Stretch("own", codes)])
    windows, places = [], []
    for base, position, mutant in mutants(codes):
        first = min(max(position // 8 * 8 + 4 - 16, 0), length - 32) if length > 32 else 0
        windows += [codes[first : first + 32], mutant[first : first + 32]]
        places.append((base, position))
    found = predicted(model, windows)
    for (base, position), effect in zip(places, found[1::2] - found[::2], strict=True):
        assert scan.effects[base, position] == pytest.approx(effect, abs=ATOL)


@pytest.mark.parametrize("choice", ["on", "small", "off"])
def test_a_model_of_both_strands_answers_as_the_mean_of_both(choice):
    """Windows whose wanted positions lie differently, one of them beside unknown bases."""
    model = model_of(dataclasses.replace(ACTIVITY, strands="both"))
    rng = np.random.default_rng(5)
    codes = [tiny_inputs.random_codes(rng, length, 0.0) for length in (32, 32, 19, 2)]
    codes[1][[3, 20]] = 0
    windows = [saturation.centred(own, 32) for own in codes]
    windows[1] = windows[1]._replace(wanted=np.arange(32) >= 24)
    table = saturation.kmer_table(model, 1, choice)
    found = saturation.predict_activity(model, windows, table=table)
    np.testing.assert_allclose(found.reference, predicted(model, codes), rtol=0, atol=ATOL)
    for own, window, changed in zip(codes, windows, found.changed, strict=True):
        places = [(base, at) for base, at, _ in mutants(own)]
        expected = np.full((4, 32), np.nan)
        first = int(np.argmax(window.valid))
        for (base, at), value in zip(
            places, predicted(model, [mutant for *_, mutant in mutants(own)]), strict=True
        ):
            if window.wanted[first + at]:
                expected[base, first + at] = value
        np.testing.assert_allclose(changed, expected, rtol=0, atol=ATOL)
        assert np.nanmax(expected) - np.nanmin(expected) > 1e-3


@pytest.mark.parametrize("choice", ["on", "small"])
def test_a_table_changes_no_effect(genome, genes, choice):
    model = model_of(ACTIVITY)
    stretches = [region(genome), region(genome, "chr1", 0, 20)]
    plain = mutate_stretches([model], stretches, kmer_table="off")
    read = mutate_stretches([model], stretches, kmer_table=choice)
    model, sites = model_of(EXPRESSION, seed=8), [Site(0, 1), Site(1, 0)]
    plain += mutate_genes([model], genes, sites, ensemble="all", kmer_table="off")
    read += mutate_genes([model], genes, sites, ensemble="all", kmer_table=choice)
    for one, other in zip(plain, read, strict=True):
        np.testing.assert_allclose(one.effects, other.effects, rtol=0, atol=ATOL)
        assert np.abs(one.effects).max() > 1e-4


@pytest.mark.parametrize("choice", ["on", "small"])
def test_a_table_is_as_exact_as_the_layers_in_a_model_that_computes_in_bfloat16(genome, choice):
    model = model_of(dataclasses.replace(ACTIVITY, compute_dtype="bfloat16"))
    (plain,) = mutate_stretches([model], [region(genome)], kmer_table="off")
    (read,) = mutate_stretches([model], [region(genome)], kmer_table=choice)
    np.testing.assert_allclose(plain.effects, read.effects, rtol=0, atol=ATOL)


def test_reverse_complement_gives_the_mirror_image_when_strands_are_averaged(genome):
    model, stretch = model_of(ACTIVITY), region(genome)
    edited = {"deletions": (1, 3), "insertions": ("2", "ACA")}
    turned_edits = {"deletions": (1, 3), "insertions": ("2", "TGT")}
    (scan,) = mutate_stretches([model], [stretch], average_strands=True, **edited)
    (other,) = mutate_stretches([model], [stretch.turned()], average_strands=True, **turned_edits)
    np.testing.assert_allclose(scan.effects, other.effects[::-1, ::-1], rtol=0, atol=ATOL)
    for size in (1, 3):
        own, turned = (s.indels[f"deletion_{size}"] for s in (scan, other))
        last = len(own) - size + 1
        np.testing.assert_allclose(own[:last], turned[:last][::-1], rtol=0, atol=ATOL)
        assert np.isnan(own[last:]).all() and np.isfinite(own[:last]).all()
    own, turned = scan.indels["insertion_ACA"], other.indels["insertion_TGT"]
    np.testing.assert_allclose(own[1:], turned[1:][::-1], rtol=0, atol=ATOL)
    (alone,) = mutate_stretches([model], [stretch])
    assert np.abs(alone.effects - scan.effects).max() > 1e-3


def test_folds_that_test_a_chromosome_speak_alone_and_all_are_averaged_when_asked(genome):
    models = [model_of(ACTIVITY, "fold_1", 1), model_of(ACTIVITY, "fold_2", 2)]
    stretches = [region(genome, chrom) for chrom in ("chr1", "chr2")]
    scans = mutate_stretches(models, stretches)
    assert [(scan.fold, scan.in_training) for scan in scans] == [("fold_1", "no"), ("fold_2", "no")]
    alone = [
        mutate_stretches([model], [stretches[0]], ensemble="all")[0].effects for model in models
    ]
    np.testing.assert_allclose(scans[0].effects, alone[0], rtol=0, atol=ATOL)
    (mean,) = mutate_stretches(models, [stretches[0]], ensemble="all")
    np.testing.assert_allclose(mean.effects, np.mean(alone, axis=0), rtol=0, atol=ATOL)
    np.testing.assert_allclose(mean.sd, np.std(alone, axis=0), rtol=0, atol=ATOL)
    assert mean.in_training == "yes" and scans[0].sd is None


# --- genes


def edited_genes(genes, site, made):
    """The gene of a site once for each sequence in its slot, under names of their own."""
    example = genes.examples[site.gene]
    codes = inputs.element_codes(example)
    examples = []
    for number, own in enumerate(made):
        changed = {"promoter": own}
        if site.slot:
            parts = [*codes]
            parts[site.slot - 1] = own
            lengths = np.array([len(part) for part in parts], np.int32)
            changed = {"element_sequence": np.concatenate(parts), "element_length": lengths}
        examples.append(dataclasses.replace(example, gene_id=f"m{number}", **changed))
    carried = genes.carried.iloc[[site.gene] * len(made)].set_axis([e.gene_id for e in examples])
    return dataclasses.replace(genes, examples=examples, carried=carried)


def express(model, genes, **options):
    return (
        predict.predict_expression([model], genes, batch_size=64, **options)
        .predictions["prediction"]
        .to_numpy()
    )


@pytest.mark.parametrize("site", [Site(0, 0), Site(0, 1), Site(0, 2), Site(1, 0)])
@pytest.mark.parametrize("average_strands", [False, True])
def test_gene_effects_are_those_of_mutated_genes(genes, site, average_strands):
    """Promoters (one begins before its contig), a short odd element, one longer than the window."""
    model = model_of(EXPRESSION, seed=8)
    options = {"average_strands": average_strands, "ensemble": "all"}
    (scan,) = mutate_genes([model], genes, [site], deletions=(2,), insertions=("3",), **options)
    codes = scan.codes
    places = [(base, position) for base, position, _ in mutants(codes)]
    made = [codes, *(mutant for *_, mutant in mutants(codes))]
    shorter = [np.delete(codes, [at, at + 1]) for at in (0, 7, len(codes) - 2)]
    found = express(model, edited_genes(genes, site, [*made, *shorter]), **options)
    assert scan.reference == pytest.approx(found[0], abs=ATOL)
    for (base, position), value in zip(places, found[1:], strict=False):
        assert scan.effects[base, position] == pytest.approx(value - found[0], abs=ATOL)
    assert np.abs(scan.effects).max() > 1e-4
    for at, value in zip((0, 7, len(codes) - 2), found[-3:], strict=True):
        assert scan.indels["deletion_2"][at] == pytest.approx(value - found[0], abs=ATOL)
    assert np.isfinite(scan.indels["insertion_3"]).all()
    expected = genes.examples[site.gene]
    own = expected.promoter if not site.slot else inputs.element_codes(expected)[site.slot - 1]
    np.testing.assert_array_equal(codes, own)


@pytest.mark.parametrize("slot", [0, 1])
def test_activity_follows_the_sequence_in_the_second_mode(genes, slot):
    model, encoder = model_of(EXPRESSION, seed=8), model_of(ACTIVITY, seed=5)
    (scan,) = mutate_genes([model], genes, [Site(0, slot)], activity_models=[encoder])
    (change,) = mutate_stretches([encoder], [Stretch("", scan.codes, split="chr1")])
    places = [(0, 3), (1, 11), (3, 30)]
    for base, position in places:
        mutant = scan.codes.copy()
        mutant[position] = 1 << base
        changed = edited_genes(genes, Site(0, slot), [mutant])
        example, factor = changed.examples[0], 2 ** change.effects[base, position]
        if slot:
            signals = example.link_signals.copy()
            signals[slot - 1, genes.link_signal_names.index("activity")] *= factor
            example = dataclasses.replace(example, link_signals=signals)
        else:
            signals = example.gene_signals.copy()
            signals[genes.gene_signal_names.index("promoter_activity")] *= factor
            example = dataclasses.replace(example, gene_signals=signals)
        value = express(model, dataclasses.replace(changed, examples=[example]))[0]
        effect = scan.effects_with_activity[base, position]
        assert effect == pytest.approx(value - scan.reference[0], abs=ATOL)
    assert np.abs(scan.effects_with_activity - scan.effects).max() > 1e-4


def test_places_choose_elements(genes):
    models = [model_of(EXPRESSION, seed=8)]
    of = [e.tolist() for e in (genes.examples[0].element_start, genes.examples[0].element_end)]
    slot = 1 + of[0].index(5000)
    given = {"promoter": False, "element": ("chr1", 5199, 5300)}
    assert sites_of(genes, models, **given) == [Site(0, slot)]
    everything = sites_of(genes, models, promoter=True, all_elements=True)
    assert everything == [Site(0, 0), Site(0, 1), Site(0, 2), Site(1, 0), Site(1, 1)]
    with pytest.raises(ValueError, match="no element of G1, G2 overlaps chr1:5201-5300; there are"):
        sites_of(genes, models, promoter=False, element=("chr1", 5200, 5300))


# --- commands


@pytest.fixture(scope="module")
def saved(folder):
    for config, name in ((ACTIVITY, "encoder"), (EXPRESSION, "expression")):
        model = model_of(config, seed=8)
        checkpoint.save_model(folder / name, model.variables, model.info)
    return folder


def run(folder, *arguments):
    cache = ["--cache-dir", str(folder / "cache")]
    return cli.main(["mutagenesis", *cache, *[str(argument) for argument in arguments]])


def test_the_command_mutates_regions_and_writes_tracks(saved, tmp_path, capsys):
    import pyBigWig

    names = ["ism.npz", "ism.bw", "ism.bedgraph", "ism.png"]
    out, bigwig, bedgraph, plot = (tmp_path / name for name in names)
    given = ["--model", saved / "encoder", "--fasta", saved / "tiny.fa"]
    given += ["--region", "chr1:501-545", "chr2:11-20", "--deletions", "1,2", "--out", out]
    given += ["--bigwig", bigwig, "--bedgraph", bedgraph, "--plot", plot]
    assert run(saved, *given) == 0
    arrays = np.load(out)
    assert arrays["ism"].shape == arrays["one_hot"].shape == (2, 4, 45)
    assert list(arrays["name"]) == ["chr1:501-545", "chr2:11-20"]
    assert list(arrays["start"]) == [500, 10] and str(arrays["label"]) == "log2_activity"
    assert arrays["deletion_2"].shape == (2, 45)
    hypothetical = arrays["ism"][0] - arrays["ism"][0].mean(axis=0)
    expected = (hypothetical * arrays["one_hot"][0]).sum(axis=0)
    with pyBigWig.open(str(bigwig)) as file:
        np.testing.assert_allclose(file.values("chr1", 500, 545), expected, atol=1e-6)
    assert bedgraph.exists() and (tmp_path / "ism_2.png").exists()
    assert "ism.modisco_onehot.npz" in capsys.readouterr().out


def test_the_command_mutates_elements_of_a_gene(saved, tmp_path, capsys):
    out = tmp_path / "gene.npz"
    given = ["--model", saved / "expression", "--fasta", saved / "tiny.fa", "--gene", "G1"]
    given += ["--genes", saved / "genes.tsv", "--links", saved / "links.tsv", "--out", out]
    element = ["--element", "chr1:4,001-4,010", "--activity-model", saved / "encoder"]
    assert run(saved, *given, *element) == 0
    arrays = np.load(out)
    assert list(arrays["role"]) == ["element"] and list(arrays["gene_id"]) == ["G1"]
    assert arrays["ism"].shape == arrays["ism_activity"].shape == (1, 4, 31)
    assert arrays["start"][0] == 4000
    assert run(saved, *given, "--promoter", "--kmer-table", "on") == 0
    assert "mode sequence only" in capsys.readouterr().out
    assert "ism_activity" not in np.load(out).files


def test_python_gives_the_same_scans(saved, genes):
    encoder = load_model(saved / "encoder")
    (scan,) = encoder.mutagenesis(regions=["chr1:501-545"], fasta=saved / "tiny.fa")
    assert (scan.start, len(scan.codes), scan.fold) == (500, 45, "fold_1")
    (own,) = encoder.mutagenesis("ACGTTGCAACGT")
    assert own.role == "sequence" and own.effects.shape == (4, 12)
    scans = load_model(saved / "expression").mutagenesis(genes, gene_ids=["G1"], all_elements=True)
    assert [scan.role for scan in scans] == ["promoter", "element", "element"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--region", "chr1"], "is no place; expected chr:start-end"),
        (["--region", "chr1:10-5"], "is no place"),
        (["--region", "chr1:8999-9001"], "chr1:8999-9001 does not lie on chr1, which has 9000 bp"),
        (["--region", "chr1:1-9", "--step", "33"], "expected 1 to the window, 32"),
        (["--region", "chr1:1-9", "--genes", "."], "are for activity models"),
        (["--region", "chr1:1-9", "--out", "ism.txt"], "expected a name that ends in .npz"),
        (["--region", "chr1:1-9", "--plot", "ism.pdf"], "expected a name that ends in .png"),
    ],
)
def test_wrong_arguments_are_one_line(saved, tmp_path, arguments, message, capsys):
    given = ["--model", saved / "encoder", "--fasta", saved / "tiny.fa"]
    out = ["--out", tmp_path / "ism.npz"]
    assert run(saved, *given, *out, *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1
