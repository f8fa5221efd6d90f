"""`python -m data_prep run`: raw files to records, as the simulator's own tables say; cached."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from data_prep import __main__ as command
from data_prep import pipeline, pipeline_config, qc, reads, stages
from data_prep.check import check
from data_prep.samples import read_samples
from data_prep.signal_files import CountingOptions, measure
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
    return pd.read_csv(path, sep="\t")


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
    files = {"genes": "genes/genes.tsv", "windows": "signals/windows.tsv.gz"}
    mine, theirs = (
        table(out / "alpha" / files.get(name, "links/links.tsv.gz")),
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
    # The transform stands in the records themselves: read from genes.json beside genes.tsv.
    stated = {key: dataset["label_transform"][key] for key in ("mean", "sd")}
    assert manifest.label_transforms["rna"].items() >= stated.items()


def test_the_page_is_one_file_that_shows_every_part(out):
    page = (out / "qc.html").read_text()
    assert page.count("<svg") == 7 and "nan" not in page.lower().replace("finance", "")
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    for text in ("dnase.bam", "overlaps the blacklist", "contact by distance", "PE-Activity-HiC"):
        assert text in page


def test_the_page_shows_filters_shares_and_sheet_order(simulated, out, tmp_path):
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    shutil.copytree(folder / "alpha", folder / "zeta")
    for cell, assay in (("zeta", "ATAC"), ("alpha", "DNase")):
        path = folder / cell / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"cell_type": cell}))
        path = folder / cell / "signals" / "elements.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"assay": assay}))
    page = qc.write_page(folder, "t", order=["zeta", "alpha"]).read_text()
    assert page.index('<a href="#zeta">') < page.index('<a href="#alpha">')
    first, second = page.index('<h2 id="zeta">'), page.index('<h2 id="alpha">')
    assert first < second
    assert "<td>ATAC</td>" in page[first:second] and "<td>DNase</td>" in page[second:]
    assert "MAPQ at least 0; duplicates kept; both strands; each read once" in page
    counted = table(out / "alpha" / "signals" / "elements.tsv.gz")["dnase_count"].sum()
    total = json.loads((out / "alpha" / "signals" / "elements.json").read_text())["signals"]
    share = round(100 * counted / total["dnase"]["totals"][0], 1)
    assert f'<td class="number">{share:g}</td>' in page
    assert '<th class="number">rows</th>' in page
    assert "<td>element overlaps the blacklist</td>" in page  # text to the left


def test_links_per_gene_and_contact_curve_count_every_link(out):
    links = table(out / "alpha" / "links" / "links.tsv.gz")
    genes = table(out / "alpha" / "genes" / "genes.tsv")
    assert qc.links_per_gene(links, genes).sum() == len(links)
    curve = qc.contact_by_distance(links)
    far = links[links["distance"].abs() >= 1000]
    assert curve["n"].sum() == len(far)
    np.testing.assert_allclose((curve["n"] * curve["mean"]).sum(), far["contact"].sum())


def test_each_signal_file_is_read_once_and_every_table_gets_its_own_counts(
    config, simulated, tmp_path, monkeypatch
):
    read = []
    stream = reads.alignment_batches

    def counted(path, *arguments, **options):
        read.append(path)
        return stream(path, *arguments, **options)

    monkeypatch.setattr(reads, "alignment_batches", counted)
    pipeline.prepare(config, tmp_path / "out", cells=("alpha",))
    files = [simulated / "alpha" / f"{name}.bam" for name in ("dnase", "h3k27ac")]
    assert sorted(read) == sorted(map(str, files))
    monkeypatch.undo()
    for name in ("elements", "promoters", "windows"):
        regions = table(tmp_path / "out" / "alpha" / "signals" / f"{name}.tsv.gz")
        for column, path in zip(("dnase_count", "h3k27ac_count"), files, strict=True):
            alone = measure(path, regions, CountingOptions()).values
            np.testing.assert_array_equal(regions[column], alone)


@pytest.mark.parametrize("writing", ["--workers=2", "--beam="])
def test_the_records_are_the_same_bytes_whoever_writes_them(
    out, simulated, tmp_path, writing, repository
):
    if writing == "--beam=":
        pytest.importorskip("apache_beam")
    folder = tmp_path / "out"
    shutil.copytree(out, folder)
    shutil.rmtree(folder / "alpha" / "records")
    code = command.main(
        ["run", f"--config={repository / CONFIG}", f"--out={folder}", f"--set=root={simulated}"]
        + ["--cells=alpha", writing]
    )
    assert code == 0
    stated, made = (
        {
            path.relative_to(place): path.read_bytes()
            for path in sorted((place / "alpha" / "records").rglob("*"))
            if path.is_file() and path.name != stages.RECORD
        }
        for place in (out, folder)
    )
    assert len(made) > 5 and made == stated
    (done,) = pipeline.prepare(
        pipeline_config.load(repository / CONFIG, [f"root={simulated}"]), folder, cells=("alpha",)
    ).values()
    assert was_run(done) == []  # who writes is no reason to write again


def test_two_ways_of_writing_at_once_are_refused_before_the_work(tmp_path, capsys, repository):
    words = [f"--config={repository / CONFIG}", f"--out={tmp_path / 'out'}", "--workers=2"]
    assert command.main(["run", *words, "--beam="]) == 2
    assert "either --workers or --beam" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fields_reach_their_commands(config, simulated, tmp_path, repository):
    overrides = ["links.order=abc", "links.max_elements=2", "links.score_rule=abc"]
    overrides += ["signals.min_mapq=1", "signals.strand=+", "contact.gamma=0.9"]
    overrides += ["signals.duplicates=drop", "links.self_promoter_score=computed"]
    chosen = pipeline_config.load(repository / CONFIG, [f"root={simulated}", *overrides])
    pipeline.prepare(chosen, tmp_path / "out", cells=("alpha",))
    place = tmp_path / "out" / "alpha"
    linked = json.loads((place / "links" / "links.json").read_text())
    assert linked["power_law"]["gamma"] == 0.9
    assert linked["score_rule"]["midpoint"] == "exact"
    assert linked["score_rule"]["self_promoter_score"] == "computed"
    assert "first 2 by abc" in linked["rule"]
    counted = json.loads((place / "signals" / "elements.json").read_text())["read_filter"]
    assert (counted["min_mapq"], counted["strand"], counted["keep_duplicates"]) == (1, "+", False)


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
    # The elements and promoters among the signals are what they were, so links and genes stay.
    assert was_run(done) == ["signals", "records"] and not (folder / "alpha" / "windows").exists()


def test_a_stage_that_fails_leaves_nothing_and_the_next_run_goes_on(config, tmp_path, monkeypatch):
    from data_prep import links

    def fail(args):
        (tmp_path / "out" / "alpha" / ".links.partial" / "half").write_text("x")
        raise KeyboardInterrupt

    monkeypatch.setattr(links, "run", fail)
    with pytest.raises(KeyboardInterrupt):
        pipeline.prepare(config, tmp_path / "out", cells=("alpha",))
    names = {path.name for path in (tmp_path / "out" / "alpha").iterdir()}
    assert names == {"candidates", "tss", "summits", "windows", "signals", "genes"}
    monkeypatch.undo()
    (done,) = pipeline.prepare(config, tmp_path / "out", cells=("alpha",)).values()
    assert was_run(done) == ["links", "records"]


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


def renamed_contig(simulated, tmp_path, new):
    """The simulated files with chr1 called something else, from the FASTA to the peaks."""
    for name in (
        "genome.fa",
        "chrom.sizes",
        "genes.bed",
        "blacklist.bed",
        "alpha/peaks.narrowPeak",
    ):
        text = (simulated / name).read_text()
        text = re.sub(r"^(>?)chr1(?=\s)", rf"\g<1>{new}", text, flags=re.MULTILINE)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return [f"genome.{field}={tmp_path / name}" for field, name in RENAMED.items()] + [
        f"genes.annotation={tmp_path / 'genes.bed'}"
    ]


RENAMED = {"fasta": "genome.fa", "contigs": "chrom.sizes", "blacklist": "blacklist.bed"}


def test_a_contig_that_can_be_no_split_stops_the_run_before_any_work(
    simulated, tmp_path, repository
):
    peaks = table(simulated / "samples.tsv")["peaks"].iloc[0]
    (tmp_path / "x").mkdir()
    overrides = renamed_contig(simulated, tmp_path / "x", "scaf|1")
    samples = with_samples(
        simulated,
        tmp_path,
        peaks=str(tmp_path / "x" / peaks),
        accessibility=str(simulated / "alpha" / "dnase.bw"),
        h3k27ac="",
        contact="",
    )
    overrides += [f"root={simulated}", f"samples={samples}", "signals.track_units=coverage"]
    aliases = tmp_path / "aliases.tsv"
    aliases.write_text("chr1\tscaf|1\n")
    overrides.append(f"genome.aliases={aliases}")
    config = pipeline_config.load(repository / CONFIG, overrides)
    with pytest.raises(ValueError, match=r"scaf\|1.* cannot be the name .* in genome.splits"):
        pipeline.prepare(config, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    splits = tmp_path / "contigs.tsv"
    splits.write_text("chrom\tsplit\nscaf|1\tchr1\n")
    config = pipeline_config.load(repository / CONFIG, [*overrides, f"genome.splits={splits}"])
    pipeline.prepare(config, tmp_path / "out")
    manifest, _ = records.read_dataset(tmp_path / "out" / "alpha" / "records" / "genes")
    assert "chr1" in manifest.splits


def test_a_fasta_with_other_names_is_matched_by_every_stage(
    simulated, out, tmp_path, repository, capsys
):
    text = (simulated / "genome.fa").read_text().replace(">chr", ">")
    (tmp_path / "ensembl.fa").write_text(text)
    config = pipeline_config.load(
        repository / CONFIG, [f"root={simulated}", f"genome.fasta={tmp_path / 'ensembl.fa'}"]
    )
    pipeline.prepare(config, tmp_path / "out", cells=("alpha",))
    assert "contigs by the genome's names: chr1 -> 1" in capsys.readouterr().out
    manifest, genes = records.read_dataset(tmp_path / "out" / "alpha" / "records" / "genes")
    _, stated = records.read_dataset(out / "alpha" / "records" / "genes")
    check(tmp_path / "out" / "alpha" / "records", fasta=tmp_path / "ensembl.fa")
    assert "1" in manifest.splits and len(genes) == len(stated)
    by_id = {gene.gene_id: gene for gene in stated}
    for gene in genes:
        np.testing.assert_array_equal(gene.link_signals, by_id[gene.gene_id].link_signals)


def test_a_dry_run_writes_nothing(config, tmp_path, capsys):
    assert pipeline.prepare(config, tmp_path / "out", dry_run=True) == {}
    assert "beta: preset PE-Activity-HiC; rna" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()
