"""Variants: effects against predictions on the edited FASTA, strands, folds, files."""

import dataclasses
import gzip

import jax
import numpy as np
import pandas as pd
import pysam
import pytest
import tiny_models
from test_predict import ACTIVITY, EXPRESSION, RULE, info_of
from tiny_variants import CONTIGS, known, other_base, text_of, write_genome, write_vcf, write_world

import epinformer_jax
from epinformer_jax import cli
from epinformer_jax.analysis import activity, ensembles, inputs, predict, variants, vcf
from epinformer_jax.data import sequence
from epinformer_jax.data.genome import Genome
from epinformer_jax.train import checkpoint

pytestmark = pytest.mark.usefixtures("quick_compilation")


def model_of(config, *, seed=1, fold="fold_1", **fields):
    variables = jax.device_get(tiny_models.random_variables(config, seed=seed))
    return ensembles.Model(fold, variables, info_of(config, fold, **fields))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Contigs, frames of genes and links, folder."""
    return write_world(tmp_path_factory.mktemp("variants"))


def inputs_of(folder, genes, links, name="genome.fa"):
    with Genome(folder / name, folder / "cache") as genome:
        return inputs.from_tables(genes, links, genome, rule=RULE, promoter_bp=400)


def score(world, rows, models, **options):
    _, genes, links, folder = world
    path = write_vcf(folder / "given.vcf", rows)
    with Genome(folder / "genome.fa", folder / "cache") as genome:
        found, dropped = vcf.read(path, genome)
        assert dropped.empty, dropped
        given = inputs_of(folder, genes, links)
        return variants.score_variants(models, given, found, genome, force=True, **options).table


def edits(world):
    """One variant of each kind in G1's slots."""
    found = []
    for start, length, make in [
        (2100, 1, lambda r: other_base(r)),  # in one element
        (2250, 1, lambda r: other_base(r)),  # in two overlapping elements
        (2150, 3, lambda r: r[0]),  # deletion
        (4500, 1, lambda r: r + "ACGTACGC"),  # insertion into a cropped element
        (4120, 1, lambda r: r + "AC"),  # in its part outside the window: the middle moves
        (450, 1, lambda r: other_base(r)),  # promoter
        (500, 9, lambda r: r[0]),  # deletion left of the TSS
        (700, 1, lambda r: r + "TTTT"),  # insertion right of it
        (1990, 30, lambda r: r[0]),  # deletion over the edge of an element
        (2120, 4, lambda r: "".join(map(other_base, r))),  # several bases
    ]:
        pos, ref = known(world, "chr1", start, length)
        found.append(("chr1", pos, ref, make(ref)))
    return found


def rerun(world, row, model, scale=None):
    """The gene G1 predicted on the FASTA with the variant, from lifted tables; scalars as before.

    Written with strings and coordinates only. `scale` maps (role, start) to a factor.
    """
    contigs, genes, links, folder = world
    chrom, pos, ref, alt = row
    text = sequence.decode(contigs[chrom])
    assert text[pos - 1 : pos - 1 + len(ref)] == ref
    while ref and alt and ref[-1] == alt[-1]:
        ref, alt = ref[:-1], alt[:-1]
    start = pos - 1
    while ref and alt and ref[0] == alt[0]:
        ref, alt, start = ref[1:], alt[1:], start + 1
    edited = text[:start] + alt + text[start + len(ref) :]
    write_genome(folder / "edited.fa", {**contigs, chrom: sequence.encode(edited)})

    def lift(p):
        if p <= start:
            return p
        return p + len(alt) - len(ref) if p >= start + len(ref) else min(p, start + len(alt))

    own = genes[genes["gene_id"] == "G1"].assign(tss=lambda t: t["tss"].map(lift))
    before = links[links["gene_id"] == "G1"]
    after = before.assign(start=before["start"].map(lift), end=before["end"].map(lift))
    after = after[after["end"] > after["start"]]
    plain = inputs_of(folder, genes[genes["gene_id"] == "G1"], before).examples[0]
    given = inputs_of(folder, own, after, "edited.fa")  # rule and order by the old distances
    (example,) = given.examples
    signals, gene_signals = plain.link_signals.copy(), plain.gene_signals.copy()
    for (role, where), factor in (scale or {}).items():
        if role == "promoter":
            gene_signals[given.gene_signal_names.index("promoter_activity")] *= factor
        else:
            row = list(plain.element_start).index(where)
            signals[row, given.link_signal_names.index("activity")] *= factor
    assert list(map(lift, map(int, plain.element_start))) == list(example.element_start)
    example = dataclasses.replace(
        example, distance_bp=plain.distance_bp, link_signals=signals, gene_signals=gene_signals
    )
    given = dataclasses.replace(given, examples=[example])
    return predict.predict_expression([model], given, force=True).predictions["prediction"][0]


# --- effects


def test_expression_is_that_of_the_edited_fasta(world):
    model = model_of(EXPRESSION)
    rows = edits(world)
    table = score(world, rows, [model])
    table = table[table["gene_id"] == "G1"]
    before = rerun(world, ("chr1", *known(world, "chr1", 100), known(world, "chr1", 100)[1]), model)
    seen = 0
    for row in rows:
        own = table[(table["pos"] == row[1]) & (table["alt"] == row[3])]
        assert len(own), row
        expected = rerun(world, row, model) - before
        np.testing.assert_allclose(own["delta_expression_sequence"], expected, atol=2e-6)
        np.testing.assert_allclose(own["expression_ref"], before, rtol=1e-5)
        seen += abs(expected) > 1e-5
    assert seen > 6
    both = table[table["pos"] == rows[1][1]]
    assert list(both["role"]) == ["element"] * 2 and set(both["start"]) == {2000, 2200}


def test_a_deleted_element_is_gone(world):
    _, genes, links, folder = world
    model = model_of(EXPRESSION)
    pos, ref = known(world, "chr1", 1990, 1)
    ref = text_of(world, "chr1", pos, 330)
    table = score(world, [("chr1", pos, ref, ref[0])], [model])
    without = links[~((links["start"] == 2000) & (links["gene_id"] == "G1"))]
    without = without[without["gene_id"] == "G1"]
    assert set(table["start"]) == {2000, 2200}
    own = genes[genes["gene_id"] == "G1"]
    base = predict.predict_expression(
        [model], inputs_of(folder, own, links[links["gene_id"] == "G1"]), force=True
    ).predictions["prediction"][0]
    # the overlapping element 2200-2400 keeps what is right of the deletion
    given = inputs_of(folder, own, without)
    (example,) = given.examples
    codes = inputs.element_codes(example)
    place = list(example.element_start).index(2200)
    codes[place] = codes[place][pos + 329 - 2200 :]
    example = dataclasses.replace(
        example,
        element_length=np.array([len(c) for c in codes], np.int32),
        element_sequence=np.concatenate(codes),
    )
    given = dataclasses.replace(given, examples=[example])
    expected = predict.predict_expression([model], given, force=True).predictions["prediction"][0]
    np.testing.assert_allclose(table["delta_expression_sequence"], expected - base, atol=2e-6)


def test_activity_changes_scale_the_elements_and_the_promoter(world):
    contigs, _, _, folder = world
    model, encoder = model_of(EXPRESSION), model_of(ACTIVITY, seed=3)
    rows = [edits(world)[i] for i in (0, 5)]
    table = score(world, rows, [model], activity_models=[encoder])
    table = table[table["gene_id"] == "G1"].set_index("pos")
    base = table["expression_ref"].iloc[0]
    for (_, pos, ref, alt), (role, start) in zip(
        rows, [("element", 2000), ("promoter", 0)], strict=True
    ):
        window = contigs["chr1"][pos - 1 - 32 : pos - 1 + 32].copy()
        edited = window.copy()
        edited[32] = sequence.encode(alt)[0]
        found = activity.predict_activity([encoder], ["r", "a"], [window, edited])["log2_activity"]
        delta = found[1] - found[0]
        np.testing.assert_allclose(table.loc[pos, "delta_activity"], delta, atol=1e-5)
        assert abs(delta) > 1e-3
        expected = rerun(world, ("chr1", pos, ref, alt), model, {(role, start): 2.0**delta}) - base
        np.testing.assert_allclose(
            table.loc[pos, "delta_expression_sequence_activity"], expected, atol=3e-6
        )
        assert abs(expected - table.loc[pos, "delta_expression_sequence"]) > 1e-5


def test_the_other_strand_gives_the_same_effects_when_strands_are_averaged(world, tmp_path):
    contigs, genes, links, _ = world
    turned = {name: sequence.reverse_complement(own) for name, own in contigs.items()}
    write_genome(tmp_path / "genome.fa", turned)
    length = genes["chrom"].map(CONTIGS)
    other_genes = genes.assign(tss=length - genes["tss"])
    length = links["chrom"].map(CONTIGS)
    other_links = links.assign(start=length - links["end"], end=length - links["start"])
    other_links["distance"] = -links["distance"]
    rows = [row for row in edits(world) if row[1] > 1000 or row[1] < 480]
    mirrored = []
    for chrom, pos, ref, alt in rows:
        ref, alt = (
            sequence.decode(sequence.reverse_complement(sequence.encode(a))) for a in (ref, alt)
        )
        mirrored.append((chrom, CONTIGS[chrom] - (pos - 1 + len(ref)) + 1, ref, alt))
    models, encoders = [model_of(EXPRESSION)], [model_of(ACTIVITY, seed=3)]
    options = {"activity_models": encoders, "average_strands": True}
    one = score(world, rows, models, **options)
    other = score((turned, other_genes, other_links, tmp_path), mirrored, models, **options)
    assert len(one) == len(other) >= len(rows)
    one["key"] = one["id"] + one["gene_id"] + one["role"] + one["start"].astype(str)
    other["start"] = other["chrom"].map(CONTIGS) - other["end"]
    other["key"] = other["id"] + other["gene_id"] + other["role"] + other["start"].astype(str)
    other = other.set_index("key").loc[one["key"]]
    for name in variants.SCORES:
        np.testing.assert_allclose(one[name], other[name], atol=2e-6, err_msg=name)
        assert np.abs(one[name]).max() > 1e-4
    single = score(world, rows, models, activity_models=encoders)
    assert np.abs(single["delta_activity"] - one.drop(columns="key")["delta_activity"]).max() > 1e-5


def test_folds_speak_for_the_chromosomes_they_test(world):
    models = [model_of(EXPRESSION, seed=k, fold=f"fold_{k}") for k in (1, 2)]
    rows = [edits(world)[0], ("chr2", *known(world, "chr2", 150), "")]
    pos, ref = known(world, "chr2", 150)
    rows[1] = ("chr2", pos, ref, other_base(ref))
    auto = score(world, rows, models)
    assert dict(zip(auto["chrom"], auto["fold"], strict=True)) == {
        "chr1": "fold_1",
        "chr2": "fold_2",
    }
    everyone = score(world, rows, models, ensemble="all")
    alone = [score(world, rows, [model])["delta_expression_sequence"] for model in models]
    np.testing.assert_allclose(
        everyone["delta_expression_sequence"], np.mean(alone, axis=0), atol=1e-6
    )
    np.testing.assert_allclose(
        everyone["delta_expression_sequence_sd"], np.std(alone, axis=0), atol=1e-6
    )
    np.testing.assert_allclose(auto["delta_expression_sequence"][0], alone[0][0], atol=1e-6)
    np.testing.assert_allclose(auto["delta_expression_sequence"][1], alone[1][1], atol=1e-6)


def test_many_pairs_in_parts_give_the_same(world, monkeypatch):
    model = model_of(EXPRESSION)
    whole = score(world, edits(world), [model])
    monkeypatch.setattr(variants.variant_effects, "PAIRS_AT_ONCE", 3)
    parts = score(world, edits(world), [model])
    for name in ("expression_ref", "delta_expression_sequence"):
        np.testing.assert_allclose(whole[name], parts[name], atol=2e-6)


def test_an_indel_in_a_repeat_may_be_written_anywhere(world):
    """Deleting one of several equal bases is one variant, whichever base the file names."""
    text = sequence.decode(world[0]["chr1"])
    place = next(i for i in range(2020, 2290) if len(set(text[i : i + 3])) == 1 and text[i] != "N")
    rows = [("chr1", place, text[place - 1 : place + 1], text[place - 1])]
    rows.append(("chr1", place + 2, text[place + 1 : place + 3], text[place + 1]))
    table = score(world, rows, [model_of(EXPRESSION)], activity_models=[model_of(ACTIVITY)])
    table = table[table["start"] == 2000]
    assert table["pos"].nunique() == 2
    for name in variants.SCORES:
        assert table[name].nunique() == 1, name


# --- percentiles and files


def test_percentiles_need_the_very_models_of_the_background(tmp_path):
    table = pd.DataFrame({"delta_expression_sequence": [0.5, -1.5, 3.0, -0.25]})
    options = {"average_strands": False, "ensemble": "auto"}
    first = variants.fingerprint([model_of(EXPRESSION)], [], **options)
    assert first == variants.fingerprint([model_of(EXPRESSION)], [], **options)
    others = {
        variants.fingerprint([model_of(EXPRESSION, seed=2)], [], **options),
        variants.fingerprint([model_of(EXPRESSION)], [model_of(ACTIVITY)], **options),
        variants.fingerprint([model_of(EXPRESSION)], [], average_strands=True, ensemble="auto"),
    }
    assert len(others | {first}) == 4
    variants.save_background(tmp_path / "b.npz", table, first)
    asked = pd.DataFrame({"delta_expression_sequence": [1.5, 0.0, -9.0]})
    found = variants.with_percentiles(asked, tmp_path / "b.npz", first)
    assert list(found["delta_expression_sequence_percentile"]) == [75.0, 0.0, 100.0]
    with pytest.raises(ValueError, match="made with other models"):
        variants.with_percentiles(asked, tmp_path / "b.npz", others.pop())
    with pytest.raises(ValueError, match="no variant was scored"):
        variants.save_background(tmp_path / "c.npz", table[:0], first)


def test_the_command_writes_scores_dropped_and_an_annotated_vcf(world, tmp_path, capsys):
    folder = world[3]
    for config, name in ((EXPRESSION, "genes"), (ACTIVITY, "encoder")):
        variables = jax.device_get(tiny_models.random_variables(config, seed=1))
        checkpoint.save_model(tmp_path / name, variables, info_of(config))
    pos, ref = known(world, "chr1", 2100)
    far, there = known(world, "chr1", 7000)
    alts = f"{other_base(ref)},<DEL>"
    rows = [
        ("chr1", pos, ref, alts, "AC=1;EPINFORMER=old"),
        ("chr1", far, there, other_base(there)),
    ]
    given = write_vcf(tmp_path / "in.vcf.gz", rows)
    asked = ["variants", "--model", tmp_path / "genes", "--activity-model", tmp_path / "encoder"]
    asked += ["--vcf", given, "--fasta", folder / "genome.fa", "--genes", folder / "genes.tsv"]
    asked += ["--links", folder / "links.tsv", "--cache-dir", folder / "cache", "--force"]
    out = ["--out", tmp_path / "s.tsv", "--out-vcf", tmp_path / "s.vcf.gz"]
    background = tmp_path / "b.npz"
    assert cli.main([*map(str, [*asked, *out, "--make-background", background])]) == 0
    assert "variant alleles scored: 1; left out: " in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "s.tsv", sep="\t")
    assert list(table["pos"]) == [pos] and set(variants.SCORES) <= set(table)
    dropped = pd.read_csv(tmp_path / "s.dropped.tsv", sep="\t")
    assert list(dropped["reason"]) == ["symbolic allele or breakend", variants.NOT_IN_ANY]
    with pysam.VariantFile(str(tmp_path / "s.vcf.gz")) as file:
        records = list(file.fetch("chr1", pos - 1, pos))
        (entry,) = records[0].info["EPINFORMER"]
        assert entry.startswith(f"{other_base(ref)}|G1|element:2001-2300|")
        assert records[0].info["AC"] == ("1",) or "AC" in records[0].info
    lines = gzip.decompress((tmp_path / "s.vcf.gz").read_bytes()).decode().splitlines()
    assert sum(line.startswith("##INFO=<ID=EPINFORMER") for line in lines) == 1
    assert lines[-1].split("\t")[7] == "."
    model, encoder = (epinformer_jax.load_model(tmp_path / n) for n in ("genes", "encoder"))
    places = (folder / "genes.tsv", folder / "links.tsv")
    scores = model.variants(
        given, *places, fasta=folder / "genome.fa", activity_model=encoder, force=True
    )
    for name in variants.SCORES:
        np.testing.assert_allclose(scores.table[name], table[name], rtol=1e-5)
    assert list(scores.dropped["reason"]) == list(dropped["reason"])
    again = ["--out", tmp_path / "p.tsv", "--background", background]
    assert cli.main([*map(str, [*asked, *again])]) == 0
    table = pd.read_csv(tmp_path / "p.tsv", sep="\t")
    assert (table["delta_activity_percentile"] == 100).all()
    assert cli.main([*map(str, [*asked, *again, "--average-strands"])]) == 2
    assert "made with other models" in capsys.readouterr().err
