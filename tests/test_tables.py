"""Tables: real ones, odd but right ones, and one clear line for each kind of wrong one."""

import gzip
import random

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_inputs import GENE_HEADER, LINK_HEADER, gene_row, gene_rows, link_rows, write_tsv

from epinformer_jax.data import tables
from epinformer_jax.data.chromosomes import chromosome_key


def write_genes(path, rows=None, header=None):
    return write_tsv(
        path / "genes.tsv", header or GENE_HEADER, gene_rows() if rows is None else rows
    )


def write_links(path, rows=None, header=None):
    return write_tsv(
        path / "links.tsv", header or LINK_HEADER, link_rows() if rows is None else rows
    )


def changed(rows, row, header, **values):
    """A copy of rows with some values of one row replaced."""
    rows = [list(one) for one in rows]
    for name, value in values.items():
        rows[row][header.index(name)] = value
    return rows


# ---- what is right ----


def test_genes_keep_their_order_and_types(tmp_path):
    genes = tables.read_genes(write_genes(tmp_path))
    assert genes["gene_id"].tolist() == ["G2", "G1", "G3", "G4"]
    assert genes["tss"].tolist() == [3000, 600, 3900, 2500]
    assert genes["tss"].dtype == np.int64
    assert genes["gene_name"].tolist() == [""] * 4
    assert genes["rna"].tolist() == [-0.5, 1.25, 0.0, 2.0]
    assert genes.attrs["labels"] == ("rna",)


def test_distances_are_signed_floor_midpoint_minus_tss(tmp_path):
    genes = tables.read_genes(write_genes(tmp_path))
    links = tables.read_links(write_links(tmp_path), genes)
    tss = {"G1": 600, "G2": 3000, "G3": 3900}
    expected = [(start + end) // 2 - tss[gene] for gene, _, start, end, *_ in link_rows()]
    assert links["distance"].tolist() == expected
    assert expected[0] == 1550 and expected[4] == -2750


def test_a_stated_distance_may_be_off_by_one(tmp_path):
    genes = tables.read_genes(write_genes(tmp_path))
    rows = [["G1", "chr1", 2000, 2301, 1, 1, 1551], ["G2", "chr2", 100, 401, 1, 1, -2751]]
    links = tables.read_links(write_links(tmp_path, rows, [*LINK_HEADER, "distance"]), genes)
    assert links["distance"].tolist() == [1550, -2750]


def test_missing_contact_becomes_zero_and_is_counted(tmp_path):
    rows = changed(link_rows(), 0, LINK_HEADER, contact="NaN")
    links = tables.read_links(write_links(tmp_path, rows))
    assert links["contact"].iloc[0] == 0
    assert links.attrs["missing_contact"] == 1


def test_links_without_rows_are_a_table(tmp_path):
    genes = tables.read_genes(write_genes(tmp_path))
    links = tables.read_links(write_links(tmp_path, []), genes)
    assert len(links) == 0
    assert "distance" in links


def test_unknown_columns_are_carried_as_numbers_or_text(tmp_path):
    header = [*GENE_HEADER, "note", "cage", "is_tested", "hg38_tss", "test_fold", "half"]
    extra = [["a", 1, True, 5, 3, "1"], ["2", 2, False, 6, 4, "x"], ["", 3, True, 7, 5, "y"]]
    rows = [[*row, *more] for row, more in zip(gene_rows(), extra, strict=False)]
    genes = tables.read_genes(write_genes(tmp_path, rows, header))
    assert genes.attrs["labels"] == ("rna", "cage")
    assert genes["note"].tolist() == ["a", "2", ""]
    assert genes["is_tested"].tolist() == ["True", "False", "True"]
    assert genes["hg38_tss"].tolist() == [5, 6, 7]


def with_promoters(rows, names):
    """Rows with the gene's promoter in a last column."""
    return [[*row, name] for row, name in zip(rows, names, strict=True)]


def test_promoters_of_one_gene_are_rows_of_their_own(tmp_path):
    header, first = [*GENE_HEADER, "promoter_id"], gene_rows()[0]
    moved = changed([first], 0, GENE_HEADER, tss=str(int(first[2]) + 40))[0]
    genes = tables.read_genes(write_genes(tmp_path, with_promoters([first, moved], "ab"), header))
    assert genes["gene_id"].tolist() == ["G2@a", "G2@b"] and "promoter_id" not in genes
    own = [row for row in link_rows() if row[0] == "G2"]
    links = with_promoters(own, "a" * len(own)) + with_promoters(own, "b" * len(own))
    table = write_links(tmp_path, links, [*LINK_HEADER, "promoter_id"])
    distance = tables.read_links(table, genes).groupby("gene_id")["distance"].apply(list)
    assert np.subtract(distance["G2@a"], distance["G2@b"]).tolist() == [40] * len(own)
    unnamed = write_links(tmp_path, own)
    with pytest.raises(ValueError, match=r"gene 'G2' is not in .*name the promoter"):
        tables.read_links(unnamed, genes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rna": "7.5"}, "rna 7.5 differs from -0.5 of another promoter of gene 'G2'"),
        ({"chrom": "chr9"}, "chrom chr9 differs from"),
        ({}, "gene G2@a stood before"),
    ],
)
def test_promoters_of_one_gene_share_label_and_chromosome(tmp_path, change, message):
    first = gene_rows()[0]
    rows = [first, changed([first], 0, GENE_HEADER, **change)[0]]
    rows = with_promoters(rows, "ab" if change else "aa")
    path = write_genes(tmp_path, rows, [*GENE_HEADER, "promoter_id"])
    with pytest.raises(ValueError, match=message) as caught:
        tables.read_genes(path)
    assert str(caught.value).startswith(f"{path}:3: ")


def test_named_labels_are_the_only_ones(tmp_path):
    rows = [[*row, number, "text"] for number, row in enumerate(gene_rows())]
    path = write_genes(tmp_path, rows, [*GENE_HEADER, "cage", "note"])
    assert tables.read_genes(path, labels=["cage"]).attrs["labels"] == ("cage",)
    assert tables.read_genes(path, labels=[]).attrs["labels"] == ()


def test_missing_labels_are_nan_when_allowed(tmp_path):
    path = write_genes(tmp_path, changed(gene_rows(), 2, GENE_HEADER, rna="NA"))
    genes = tables.read_genes(path, allow_missing_labels=True)
    assert np.isnan(genes["rna"]).tolist() == [False, False, True, False]


@pytest.mark.parametrize("form", ["CRLF", "gzip", "BOM", "comments", "hash header", "no end"])
def test_the_form_of_the_file_does_not_matter(tmp_path, form):
    path = write_genes(tmp_path)
    expected = tables.read_genes(path)
    content = path.read_bytes()
    forms = {
        "CRLF": content.replace(b"\n", b"\r\n"),
        "gzip": gzip.compress(content),
        "BOM": b"\xef\xbb\xbf" + content,
        "comments": b"# made up\n## contact: power law\n" + content,
        "hash header": b"#" + content,
        "no end": content.rstrip(b"\n"),
    }
    path.write_bytes(forms[form])
    pd.testing.assert_frame_equal(tables.read_genes(path), expected)
    bad = changed(gene_rows(), 1, GENE_HEADER, tss="x")
    if form == "comments":
        write_genes(tmp_path, bad)
        path.write_bytes(b"# made up\n## contact: power law\n" + path.read_bytes())
        with pytest.raises(ValueError, match=r"genes\.tsv:5: tss 'x'"):
            tables.read_genes(path)


def test_windows_by_coordinates_are_named_as_people_read_them(tmp_path):
    path = write_tsv(tmp_path / "w.tsv", ["chrom", "start", "end", "y"], [["chr1", 0, 256, 1.5]])
    windows = tables.read_windows(path)
    assert windows["name"].tolist() == ["chr1:1-256"]
    assert windows.attrs["labels"] == ("y",)
    assert "split" not in windows


def test_windows_by_sequence_have_no_place(tmp_path):
    rows = [["ACGT", "chr3", 1], ["ACGN", "chr4", 2]]
    windows = tables.read_windows(write_tsv(tmp_path / "w.tsv", ["sequence", "split", "y"], rows))
    assert windows["name"].tolist() == ["window_1", "window_2"]
    assert windows[["chrom", "start", "end"]].to_numpy().tolist() == [["", -1, -1]] * 2
    assert windows["split"].tolist() == ["chr3", "chr4"]
    windows = tables.read_windows(write_tsv(tmp_path / "w.tsv", ["sequence", "chrom", "y"], rows))
    assert windows["split"].tolist() == ["chr3", "chr4"]
    assert windows["chrom"].tolist() == ["", ""]


# ---- what is wrong ----


def gene_case(message, *, row=1, header=GENE_HEADER, **values):
    return pytest.param(header, changed(gene_rows(), row, GENE_HEADER, **values), message)


NO_TSS = [name for name in GENE_HEADER if name != "tss"]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        gene_case(r"genes\.tsv:3: tss 'abc' is not a number", tss="abc"),
        gene_case(r"genes\.tsv:3: tss '-1' is negative", tss=-1),
        gene_case(r"genes\.tsv:3: tss '10\.5' is not a whole number", tss=10.5),
        gene_case(r"genes\.tsv:3: tss '' is missing", tss=""),
        gene_case(r"genes\.tsv:3: strand '\.'; expected \+ or -", strand="."),
        gene_case(r"genes\.tsv:3: gene_id '' is empty", gene_id=""),
        gene_case(r"genes\.tsv:5: gene G2 stood before, at .*genes\.tsv:2", row=3, gene_id="G2"),
        gene_case(r"genes\.tsv:3: UTR5GC 'NA' is missing", UTR5GC="NA"),
        gene_case(r"genes\.tsv:3: UTR5GC 'inf' is infinite", UTR5GC="inf"),
        gene_case(r"genes\.tsv:3: promoter_activity '-2' is negative", promoter_activity=-2),
        gene_case(r"genes\.tsv:3: label 'rna' is missing", rna="nan"),
        gene_case(r"genes\.tsv:3: rna 'high' is not a number; 3 other rows", rna="high"),
        pytest.param(
            NO_TSS, [row[:2] + row[3:] for row in gene_rows()], r"column 'tss' is missing"
        ),
        pytest.param(GENE_HEADER, [], r"genes\.tsv: has a header but no rows"),
        pytest.param(
            GENE_HEADER,
            [gene_rows()[0][:-2]],
            r"genes\.tsv:2: 12 tab-separated fields, the header has 14",
        ),
        pytest.param(
            GENE_HEADER, [[*gene_rows()[0], "x"]], r"genes\.tsv:2: 15 tab-separated fields"
        ),
        pytest.param(GENE_HEADER, [gene_rows()[0], [], gene_rows()[1]], r"genes\.tsv:3: 0 tab-sep"),
        pytest.param(
            [*GENE_HEADER[:-1], "tss"], gene_rows(), r"genes\.tsv:1: column 'tss' stands twice"
        ),
        pytest.param([*GENE_HEADER[:-1], ""], gene_rows(), r"genes\.tsv:1: a column has no name"),
    ],
)
def test_a_wrong_table_of_genes_gives_one_line(tmp_path, header, rows, message):
    with pytest.raises(ValueError, match=message) as error:
        tables.read_genes(write_genes(tmp_path, rows, header))
    assert "\n" not in str(error.value)


def link_case(message, *, row=1, **values):
    return pytest.param(LINK_HEADER, changed(link_rows(), row, LINK_HEADER, **values), message)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        link_case(r"links\.tsv:3: end 500 is not after start 500", end=500),
        link_case(r"links\.tsv:3: start '-5' is negative", start=-5),
        link_case(r"links\.tsv:3: activity '-0\.1' is negative", activity=-0.1),
        link_case(r"links\.tsv:3: activity '' is missing", activity=""),
        link_case(r"links\.tsv:3: contact '-1' is negative", contact=-1),
        link_case(r"links\.tsv:3: gene 'G9' is not in .*genes\.tsv \(1 such links\)", gene_id="G9"),
        link_case(r"links\.tsv:3: element on 'chr2', but gene 'G1' is on 'chr1'", chrom="chr2"),
        link_case(
            r"links\.tsv:3: gene and element G1 chr1 2000 2301 .* links\.tsv:2|links\.tsv:2",
            start=2000,
            end=2301,
        ),
        pytest.param(
            LINK_HEADER[:-1], [row[:-1] for row in link_rows()], "column 'contact' is missing"
        ),
        pytest.param(
            [*LINK_HEADER, "distance"],
            [[*link_rows()[0], 1548]],
            r"links\.tsv:2: distance 1548 bp, but midpoint minus TSS is 1550 \(signed\)",
        ),
        pytest.param(
            [*LINK_HEADER, "is_self_promoter"],
            [[*link_rows()[0], "maybe"]],
            r"links\.tsv:2: is_self_promoter 'maybe' is neither",
        ),
        pytest.param([*LINK_HEADER, "dnase"], [[*link_rows()[0], "x"]], r"links\.tsv:2: dnase 'x'"),
    ],
)
def test_a_wrong_table_of_links_gives_one_line(tmp_path, header, rows, message):
    genes = tables.read_genes(write_genes(tmp_path))
    with pytest.raises(ValueError, match=message) as error:
        tables.read_links(write_links(tmp_path, rows, header), genes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["chrom", "start"], [["chr1", 1]], "needs columns chrom, start, end, or sequence"),
        (["sequence", "y"], [["ACGT", 1]], "need a column 'split'"),
        (["chrom", "start", "end"], [["chr1", 5, 4]], r"w\.tsv:2: end 4 is not after start 5"),
        (
            ["chrom", "start", "end"],
            [["chr1", 1, 4]] * 2,
            r"w\.tsv:3: window chr1:2-4 stood before",
        ),
        (
            ["sequence", "split", "name"],
            [["A", "c", "n"], ["C", "c", "n"]],
            "window n stood before",
        ),
        (
            ["sequence", "split", "y"],
            [["A", "c", ""], ["C", "c", 1]],
            r"w\.tsv:2: label 'y' is missing",
        ),
    ],
)
def test_a_wrong_table_of_windows_gives_one_line(tmp_path, header, rows, message):
    with pytest.raises(ValueError, match=message):
        tables.read_windows(write_tsv(tmp_path / "w.tsv", header, rows))


def test_a_label_that_is_not_there_is_suggested(tmp_path):
    with pytest.raises(ValueError, match="no label column 'rma'; did you mean 'rna'"):
        tables.read_genes(write_genes(tmp_path), labels=["rma"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["c1", "chr1"], ["c1", "chr2"]], r"c\.tsv:3: contig c1 stood before"),
        ([["c1", "chr 1"]], r"c\.tsv:2: 'chr 1' cannot be the name of a split"),
        ([["c1", "all"]], r"c\.tsv:2: 'all' cannot be"),
    ],
)
def test_a_wrong_table_of_contigs_gives_one_line(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        tables.read_contigs(write_tsv(tmp_path / "c.tsv", ["chrom", "split"], rows))


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# only a comment\n"])
def test_an_empty_file_says_so(tmp_path, content):
    (tmp_path / "genes.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=r"genes\.tsv: is empty"):
        tables.read_genes(tmp_path / "genes.tsv")


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08 cut off", b"\xff\xfe\x00binary"])
def test_a_file_that_is_no_text_says_so(tmp_path, content):
    (tmp_path / "genes.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=r"genes\.tsv: not a readable table"):
        tables.read_genes(tmp_path / "genes.tsv")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError) as caught:
        tables.read_genes(tmp_path / "genes.tsv")
    assert str(caught.value) == f"{tmp_path / 'genes.tsv'}: no such file"


# ---- order and writing ----


def test_chromosomes_sort_as_people_count():
    ordered = [
        "chr1",
        "chr1_0",
        "chr1_20",
        "chr1_100",
        "chr2",
        "chr10",
        "chr10_5",
        "chrX",
        "chrX_1",
    ]
    ordered = ["1", *ordered, "chrY", "chrM", "GL000194.1", "scaffold2", "scaffold10"]
    ordered = [name for name in ordered if name != "chrX_1"]
    for seed in range(5):
        shuffled = random.Random(seed).sample(ordered, len(ordered))
        assert sorted(shuffled, key=chromosome_key) == ordered


@given(st.lists(st.text(max_size=6), max_size=8))
def test_any_names_can_be_sorted(names):
    backwards = names[::-1]
    assert sorted(backwards, key=chromosome_key) == sorted(names, key=chromosome_key)


def test_tables_are_written_sorted_and_read_back(tmp_path):
    frame = pd.DataFrame(
        {
            "gene_id": ["b", "a", "c", "d"],
            "chrom": ["chr10", "chr2", "chr2", "chrX"],
            "start": [1, 9, 9, 0],
            "value": [0.1, 1e-17, 1 / 3, np.nan],
        }
    )
    before = frame.copy()
    for name in ("t.tsv", "t.tsv.gz"):
        tables.write_table(frame, tmp_path / name)
        found = pd.read_csv(tmp_path / name, sep="\t")
        assert found["gene_id"].tolist() == ["a", "c", "b", "d"]
        assert found["value"].tolist()[:3] == [1e-17, 1 / 3, 0.1]
    pd.testing.assert_frame_equal(frame, before)
    first = (tmp_path / "t.tsv.gz").read_bytes()
    tables.write_table(frame.iloc[::-1], tmp_path / "t.tsv.gz")
    assert (tmp_path / "t.tsv.gz").read_bytes() == first
    assert gzip.decompress(first) == (tmp_path / "t.tsv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.tsv", "t.tsv.gz"]


def test_a_failing_write_keeps_the_old_table(tmp_path, monkeypatch):
    path = tmp_path / "t.tsv"
    path.write_text("old")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        tables.write_table(pd.DataFrame({"a": [1]}), path)
    assert path.read_text() == "old"
    assert [one.name for one in tmp_path.iterdir()] == ["t.tsv"]


def test_real_tables_are_read(shared_data):
    folder = shared_data / "k562_slices"
    genes = tables.read_genes(folder / "genes.tsv")
    links = tables.read_links(folder / "links.tsv", genes)
    windows = tables.read_windows(folder / "windows_256bp.tsv")
    contigs = tables.read_contigs(folder / "contigs.tsv")
    assert [len(frame) for frame in (genes, links, windows, contigs)] == [92, 1800, 1796, 137]
    assert genes.attrs["labels"] == ("rna",)
    assert windows.attrs["labels"] == ("log2_activity", "published_prediction")
    assert ((windows["end"] - windows["start"]) == 256).all()


def test_a_table_with_many_rows_is_read_in_seconds(tmp_path):
    rows = "".join(f"G1\tchr1\t{at}\t{at + 300}\t1.5\t0.25\n" for at in range(0, 3_000_000, 30))
    (tmp_path / "links.tsv").write_text("\t".join(LINK_HEADER) + "\n" + rows)
    genes = tables.read_genes(write_genes(tmp_path, [gene_row("G1", "chr1", 5)]))
    assert len(tables.read_links(tmp_path / "links.tsv", genes)) == 100_000
