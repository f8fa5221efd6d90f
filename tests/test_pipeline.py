"""`python -m data_prep run`: raw files to records, as the simulator's own tables say; cached."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from data_prep import __main__ as command
from data_prep import pipeline, pipeline_config, qc, stages
from data_prep.check import check
from data_prep.samples import read_samples
from data_prep.simulate import simulate
from epinformer_jax.data import records

CONFIG = "configs/prep/simulated.py"
KEYS = {
    "genes": ["gene_id"],
    "links": ["gene_id", "chrom", "start", "end"],
    "windows": ["chrom", "start", "end"],
}


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw") / "sim"
    sizes = {"genes_per_chromosome": 2, "gene_spacing_bp": 9000, "elements_per_gene": 14.0}
    sizes["remote_elements_per_chromosome"] = 4
    return simulate(folder, seed=0, background_reads_per_kb=4.0, **sizes)


@pytest.fixture(scope="module")
def config(simulated, repository):
    return pipeline_config.load(repository / CONFIG, [f"root={simulated}"])


@pytest.fixture(scope="module")
def out(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared") / "out"
    pipeline.prepare(config, folder, cells=("alpha",))
    return folder


def table(path):
    return pd.read_csv(path, sep="\t", comment="#")


def was_run(done):
    return [stage.name for stage in done if stage.was_run]


def with_samples(simulated, tmp_path, **changes):
    """samples.tsv with one row, some fields changed or emptied, and complete paths."""
    row = table(simulated / "samples.tsv").iloc[0].to_dict()
    files = ("accessibility", "h3k27ac", "peaks", "contact", "expression")
    row |= {name: str(simulated / row[name]) for name in files} | changes
    path = tmp_path / "samples.tsv"
    pd.DataFrame([row]).to_csv(path, sep="\t", index=False)
    return path


# ---- the result ----


@pytest.mark.parametrize("name", ["genes", "links", "windows"])
def test_the_tables_are_the_simulators_own(simulated, out, name):
    file = "genes.tsv" if name == "genes" else f"{name}.tsv.gz"
    mine, theirs = (
        table(out / "alpha" / name / file),
        table(simulated / "prepared" / "alpha" / f"{name}.tsv"),
    )
    columns = [column for column in theirs if column not in ("abc_score", "name")]
    if name == "windows":  # negatives are drawn elsewhere; two elements may share a window
        mine = mine[mine["kind"] == "peak"]
        theirs = theirs[~theirs["name"].str.startswith("negative")].drop_duplicates(KEYS[name])
    mine, theirs = (
        frame.sort_values(KEYS[name])[columns].reset_index(drop=True) for frame in (mine, theirs)
    )
    assert len(mine) > 10
    pd.testing.assert_frame_equal(mine, theirs, rtol=1e-8, check_dtype=False)


def test_the_records_hold_the_tables(simulated, out):
    check(out / "alpha" / "records", fasta=simulated / "genome.fa")
    manifest, genes = records.read_dataset(out / "alpha" / "records" / "genes")
    stated = table(simulated / "prepared" / "alpha" / "genes.tsv").set_index("gene_id")
    assert manifest.label_names == ("rna",) and len(genes) == len(stated)
    for gene in genes:
        assert gene.labels[0] == pytest.approx(stated.loc[gene.gene_id, "rna"], rel=1e-6)
    dataset = json.loads((out / "alpha" / "dataset.json").read_text())
    assert dataset["preset"] == "PE-Activity-HiC" and dataset["notes"] == []
    assert dataset["label_transform"]["name"] == "z-log10"


def test_the_page_is_one_file_that_shows_every_part(out):
    page = (out / "qc.html").read_text()
    assert page.count("<svg") == 7 and "nan" not in page.lower().replace("finance", "")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    for text in ("dnase.bam", "overlaps the blacklist", "contact by distance", "PE-Activity-HiC"):
        assert text in page


def test_links_per_gene_and_contact_curve_count_every_link(out):
    links = table(out / "alpha" / "links" / "links.tsv.gz")
    genes = table(out / "alpha" / "genes" / "genes.tsv")
    assert qc.links_per_gene(links, genes).sum() == len(links)
    curve = qc.contact_by_distance(links)
    far = links[links["distance"].abs() >= 1000]
    assert curve["n"].sum() == len(far)
    np.testing.assert_allclose((curve["n"] * curve["mean"]).sum(), far["contact"].sum())


# ---- once, whole or not at all ----


def test_a_second_run_does_nothing_and_a_changed_parameter_only_what_depends_on_it(
    config, simulated, out, tmp_path, repository
):
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    (done,) = pipeline.prepare(config, folder, cells=("alpha",)).values()
    assert was_run(done) == []
    changed = pipeline_config.load(
        repository / CONFIG, [f"root={simulated}", "records.max_elements=3"]
    )
    (done,) = pipeline.prepare(changed, folder, cells=("alpha",)).values()
    assert was_run(done) == ["records"]
    (folder / "alpha" / "links" / "links.tsv.gz").write_bytes(b"damaged")
    (done,) = pipeline.prepare(changed, folder, cells=("alpha",)).values()
    assert was_run(done) == ["links"]  # made again as it was, so nothing after it changes
    no_windows = pipeline_config.load(
        repository / CONFIG, [f"root={simulated}", "records.max_elements=3", "windows.make=False"]
    )
    (done,) = pipeline.prepare(no_windows, folder, cells=("alpha",)).values()
    assert was_run(done) == ["records"] and not (folder / "alpha" / "windows").exists()


def test_a_stage_that_fails_leaves_nothing_and_the_next_run_goes_on(config, tmp_path, monkeypatch):
    from data_prep import links

    def fail(args):
        (tmp_path / "out" / "alpha" / ".links.partial" / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(links, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(config, tmp_path / "out", cells=("alpha",))
    names = {path.name for path in (tmp_path / "out" / "alpha").iterdir()}
    assert names == {"candidates", "signals", "genes"}
    monkeypatch.undo()
    (done,) = pipeline.prepare(config, tmp_path / "out", cells=("alpha",)).values()
    assert was_run(done) == ["links", "summits", "windows", "records"]


def test_a_stage_is_known_by_the_content_of_its_inputs_not_by_their_place(tmp_path):
    def stage(path):
        return stages.Stage("s", lambda folder: (folder / "a").write_text("a"), {}, {"in": path})

    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("same")
    second.write_text("same")
    hashes = stages.FileHashes(tmp_path / "hashes.json")
    assert stages.run_stage(stage(first), tmp_path, hashes).was_run
    assert not stages.run_stage(stage(second), tmp_path, hashes).was_run
    second.write_text("else")
    assert stages.run_stage(stage(second), tmp_path, hashes).was_run
    hashes.save()
    (tmp_path / "s" / "a").write_text("b")  # an output that somebody changed
    assert stages.run_stage(stage(second), tmp_path, stages.FileHashes(tmp_path / "h")).was_run


def test_another_folder_is_left_alone(config, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(ValueError, match="something else than a run"):
        pipeline.prepare(config, tmp_path / "mine", cells=("alpha",))


# ---- what is missing ----


def test_with_the_least_inputs_the_run_says_what_it_can_make_and_makes_it(
    simulated, tmp_path, capsys, repository
):
    empty = dict.fromkeys(("h3k27ac", "contact", "expression", "expression_column"), "")
    samples = with_samples(simulated, tmp_path, assay="ATAC", **empty)
    code = command.main(
        ["run", f"--config={repository / CONFIG}", f"--out={tmp_path / 'out'}"]
        + [f"--set=root={simulated}", f"--set=samples={samples}"]
        + ["--set=genes.mrna_features=", "--set=windows.make=False"]
    )
    said = capsys.readouterr().out
    assert code == 0
    for text in ("preset PE-Activity;", "prediction only", "no H3K27ac", "ATAC", "no mRNA"):
        assert text in said
    manifest, genes = records.read_dataset(tmp_path / "out" / "alpha" / "records" / "genes")
    assert manifest.label_names == () and "dnase" in manifest.link_signal_names
    assert all(gene.labels.size == 0 for gene in genes)
    columns = list(manifest.link_signal_names)
    for gene in genes:
        signals = gene.link_signals
        np.testing.assert_array_equal(
            signals[:, columns.index("activity")], signals[:, columns.index("dnase")]
        )
    stated = table(tmp_path / "out" / "alpha" / "genes" / "genes.tsv")
    assert (stated["mrna_features_missing"] == 1).all() and (stated["UTR5GC"] > 0.6).all()


def test_bigwig_signals_and_text_contacts_go_through(simulated, tmp_path, config, repository):
    rows = [["chr1", 5000 * i, 5000 * (i + d), 1 / (1 + d)] for i in range(8) for d in range(4)]
    text = tmp_path / "contacts.tsv"
    text.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))
    files = {name: str(simulated / "alpha" / f"{name}.bw") for name in ("dnase", "h3k27ac")}
    samples = with_samples(
        simulated,
        tmp_path,
        accessibility=files["dnase"],
        h3k27ac=files["h3k27ac"],
        contact=str(text),
    )
    overrides = [f"root={simulated}", f"samples={samples}", "signals.track_units=coverage"]
    chosen = pipeline_config.load(repository / CONFIG, [*overrides, "windows.make=False"])
    (done,) = pipeline.prepare(chosen, tmp_path / "out").values()
    assert "contact" in was_run(done)
    header = (
        tmp_path / "out" / "alpha" / "contact" / "by_chromosome" / "manifest.json"
    ).read_text()
    assert json.loads(header)["contacts"] == {"chr1": 32}


# ---- errors ----


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("candidates.extend=3", "did you mean candidates.extend_bp"),
        ("candidates.extend_bp=0", "candidates.extend_bp=0; expected a whole number of at least 1"),
        ("candidates.extend_bp=x", "candidates.extend_bp='x'"),
        ("windows.make=1", "expected True or False"),
        ("records.max_distance_bp=200000", "links.max_distance_bp must reach"),
        ("genome.fasta=", "genome.fasta=''"),
        ("nonsense", "expected field=value"),
    ],
)
def test_a_wrong_field_is_named(override, message, repository):
    with pytest.raises(ValueError, match=message):
        pipeline_config.load(repository / CONFIG, [override])


def test_every_preparation_config_is_accepted(repository):
    paths = [p for p in (repository / "configs" / "prep").glob("*.py") if p.stem != "__init__"]
    assert len(paths) >= 2
    for path in paths:
        pipeline_config.load(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"assay": "FAIRE"}, "samples.tsv:2: assay 'FAIRE'"),
        ({"accessibility": "gone.bam"}, "accessibility: .*gone.bam does not exist"),
        ({"accessibility": ""}, "samples.tsv:2: accessibility is missing"),
        ({"expression_column": ""}, "belong together"),
        ({"cell_type": "a b"}, "cell type 'a b'"),
        ({"tissue": "x"}, "unknown column 'tissue'"),
    ],
)
def test_a_wrong_sample_is_named_with_its_line(simulated, tmp_path, changes, message):
    path = with_samples(simulated, tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        read_samples(path)


def test_files_of_another_assembly_stop_the_run_before_any_work(simulated, tmp_path, repository):
    sizes = (simulated / "chrom.sizes").read_text().replace("chr1\t", "chr1\t1", 1)
    (tmp_path / "other.sizes").write_text(sizes)
    overrides = [f"root={simulated}", f"genome.contigs={tmp_path / 'other.sizes'}"]
    with pytest.raises(ValueError, match="other.sizes: chr1 has"):
        pipeline.prepare(pipeline_config.load(repository / CONFIG, overrides), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(config, tmp_path, capsys):
    assert pipeline.prepare(config, tmp_path / "out", dry_run=True) == {}
    assert "beta: preset PE-Activity-HiC; rna" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
