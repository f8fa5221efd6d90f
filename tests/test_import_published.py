"""`python -m data_prep import`: the original's tables and HDF5 layouts, there and back."""

import h5py
import hypothesis
import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from tiny_inputs import GENE_HEADER, gene_rows, random_codes, write_tsv

from data_prep import __main__ as command
from data_prep.import_hdf5 import codes_of, element_codes, import_hdf5
from epinformer_jax.data import elements, records, sequence, tables

WINDOW = 40


def window_of(codes, unknown):
    """An element in its window, as the original encodes it."""
    window = np.zeros((WINDOW, 4), np.float32)
    start = elements.offset_in_window(len(codes), WINDOW)
    window[start : start + len(codes)] = sequence.one_hot(codes, unknown=unknown)
    return window


@hypothesis.given(
    codes=st.lists(st.sampled_from([0, 1, 2, 4, 8]), min_size=1, max_size=WINDOW),
    unknown=st.sampled_from([0.25, 0.0]),
)
def test_an_element_comes_back_from_its_window(codes, unknown):
    codes = np.array(codes, np.uint8)
    hypothesis.assume(unknown or codes.any())
    window = window_of(codes, unknown)
    found = element_codes(window)
    np.testing.assert_array_equal(window_of(found, unknown), window)
    if unknown or (codes[0] and codes[-1]):
        np.testing.assert_array_equal(found, codes)


def test_an_empty_window_has_no_bases_and_rows_that_are_no_base_are_unknown():
    assert element_codes(np.zeros((WINDOW, 4))).size == 0
    rows = np.array([[0, 0, 1, 0], [0.25] * 4, [0, 0, 0, 0], [1, 1, 0, 0]])
    assert codes_of(rows).tolist() == [4, 0, 0, 0]


# ---- HDF5 ----


@pytest.fixture
def encoded():
    """Three genes: two elements, none, one; G9 is in no table."""
    rng = np.random.default_rng(5)
    lengths = {"G1": [7, 40], "G2": [], "G9": [12]}
    return {
        gene: {
            "promoter": random_codes(rng, WINDOW),
            "elements": [random_codes(rng, size) for size in sizes],
            "activity": rng.random(len(sizes)).astype(np.float32),
            "contact": rng.random(len(sizes)).astype(np.float32),
            "distance": np.arange(1, len(sizes) + 1) * 1500,
        }
        for gene, sizes in lengths.items()
    }


def legacy(file, encoded, slots=4):
    code = np.zeros((len(encoded), slots, WINDOW, 4), np.float32)
    scalars = {
        name: np.zeros((len(encoded), slots)) for name in ("activity", "contact", "distance")
    }
    for row, gene in enumerate(encoded.values()):
        code[row, 0] = sequence.one_hot(gene["promoter"])
        for slot, part in enumerate(gene["elements"], start=1):
            code[row, slot] = window_of(part, 0.25)
        for name, values in scalars.items():
            values[row, 1 : 1 + len(gene["elements"])] = gene[name]
    file["pe_code"], file["hic"] = code, scalars["contact"]
    file["activity"], file["distance"] = scalars["activity"], scalars["distance"]


def factored(file, encoded, slots=3):
    index = np.full((len(encoded), slots), -1, np.int32)
    scalars = {
        name: np.zeros((len(encoded), slots), np.float32)
        for name in ("activity", "contact", "distance", "dhs")
    }
    windows, names = [], []
    for row, gene in enumerate(encoded.values()):
        for slot, part in enumerate(gene["elements"]):
            index[row, slot] = len(windows)
            windows.append(window_of(part, 0.25))
            names.append(f"genic|chr1:{100 * slot}-{100 * slot + len(part)}".encode())
            for name in ("activity", "contact", "distance"):
                scalars[name][row, slot] = gene[name][slot]
            scalars["dhs"][row, slot] = 2.0
    file["promoter_seq"] = np.stack([sequence.one_hot(g["promoter"]) for g in encoded.values()])
    file["gene_enh_idx"], file["enhancer_seq"] = index, np.stack(windows)
    file["enhancer_name"] = names
    for name, values in scalars.items():
        file[name] = values


def two_hundred(file, encoded, slots=5):
    code = np.zeros((len(encoded), slots, WINDOW, 4), np.float32)
    feat = np.zeros((len(encoded), slots, 5), np.float32)
    for row, gene in enumerate(encoded.values()):
        for slot, part in enumerate(gene["elements"]):
            code[row, slot] = window_of(part, 0.25)
            values = (gene["distance"][slot], 2, 3, gene["activity"][slot], gene["contact"][slot])
            feat[row, slot] = values
    file["promoter_ohe"] = np.stack([sequence.one_hot(g["promoter"]) for g in encoded.values()])
    file["enhancers_ohe"], file["enhancers_feat"] = code, feat


LAYOUTS = {
    legacy: ("activity", "contact"),
    factored: ("activity", "contact", "dnase"),
    two_hundred: ("activity", "contact", "dnase", "h3k27ac"),
}


def write_h5(path, encoded, layout, ids=None):
    with h5py.File(path, "w") as file:
        layout(file, encoded)
        file["ensid"] = [name.encode() for name in ids or encoded]
    return path


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_genes_back(tmp_path, encoded, layout):
    path = write_h5(tmp_path / "a.h5", encoded, layout)
    genes = write_tsv(tmp_path / "genes.tsv", GENE_HEADER, gene_rows())
    manifest, dropped = import_hdf5(path, genes, tmp_path / "out")
    assert manifest.link_signal_names == LAYOUTS[layout]
    assert dropped == {"gene is not in the table of genes": 1, "gene is not in the HDF5 file": 2}
    _, found = records.read_dataset(tmp_path / "out" / "genes")
    assert [gene.gene_id for gene in found] == ["G1", "G2"]
    stated = tables.read_genes(genes).set_index("gene_id")
    for gene in found:
        expected = encoded[gene.gene_id]
        np.testing.assert_array_equal(gene.promoter, expected["promoter"])
        joined = np.concatenate([np.zeros(0, np.uint8), *expected["elements"]])
        np.testing.assert_array_equal(gene.element_sequence, joined)
        assert gene.element_length.tolist() == [len(part) for part in expected["elements"]]
        assert gene.distance_bp.tolist() == expected["distance"].tolist()
        np.testing.assert_array_equal(gene.link_signals[:, 0], expected["activity"])
        np.testing.assert_array_equal(gene.link_signals[:, 1], expected["contact"])
        assert gene.labels[0] == stated.loc[gene.gene_id, "rna"]
    first = found[0].element_start.tolist()
    assert first == ([0, 100] if layout is factored else [-1, -1])


def test_files_that_do_not_fit_are_refused(tmp_path, encoded):
    genes = write_tsv(tmp_path / "genes.tsv", GENE_HEADER, gene_rows())
    twice = write_h5(tmp_path / "twice.h5", encoded, legacy, ids=["G1", "G1", "G2"])
    strange = write_h5(tmp_path / "strange.h5", encoded, lambda file, _: file.create_group("x"))
    other = write_h5(tmp_path / "other.h5", encoded, legacy, ids=["A", "B", "C"])
    (tmp_path / "text.h5").write_text("no")
    for path, message in (
        (twice, "gene G1 stands twice"),
        (strange, "no known layout; it holds ensid, x"),
        (other, "none of its 3 genes is in"),
        (tmp_path / "text.h5", "cannot be read as HDF5"),
    ):
        with pytest.raises(ValueError, match=message):
            import_hdf5(path, genes, tmp_path / "out")
        assert not (tmp_path / "out").exists()


# ---- tables ----


@pytest.fixture
def abc(tmp_path):
    """GeneList, EnhancerList, putative pairs, mRNA features, expression."""
    ids = ["ENSG01", "ENSG02"]
    frames = {
        "GeneList.txt": pd.DataFrame(
            {"chr": ["chr1", "chr2"], "name": ids, "symbol": ["ONE", "TWO"], "tss": [5000, 9000]}
            | {"strand": ["+", "-"], "DHS.RPM.TSS1Kb": [4.0, 1.0], "H3K27ac.RPM.TSS1Kb": [9.0, 4.0]}
        ),
        "EnhancerList.txt": pd.DataFrame(
            {"name": ["e1", "e2"], "DHS.RPM": [2.0, 3.0], "H3K27ac.RPM": [8.0, 12.0]}
        ),
        "putative.txt": pd.DataFrame(
            {"chr": ["chr1", "chr1", "chr2"], "start": [7000, 200_000, 8000]}
            | {"end": [7501, 200_500, 8300], "name": ["e1", "e2", "e2"]}
            | {"activity_base": [0.5, 0.25, 0.75], "TargetGene": ["ENSG01.3", "ENSG01", "TWO"]}
            | {"TargetGeneTSS": [5000, 5000, 9000], "distance": [2250, 195_250, 850]}
            | {"isSelfPromoter": [False, False, True], "hic_contact": [0.1, 0.2, np.nan]}
            | {"powerlaw_contact": [1.0, 1.0, 1.0], "ABC.Score": [0.5, 0.1, 1.0]}
        ),
        "mrna.csv": pd.DataFrame({"gene_id": ids} | dict.fromkeys(tables.MRNA_FEATURES, 0.25)),
        "labels.csv": pd.DataFrame({"gene_id": ids, "Actual_K562": [1.5, -0.5]}),
    }
    for name, frame in frames.items():
        frame.to_csv(tmp_path / name, sep="," if name.endswith("csv") else "\t", index=False)
    return tmp_path, frames


def arguments(folder, *more):
    return [
        "import", f"--putative={folder / 'putative.txt'}", f"--gene-list={folder / 'GeneList.txt'}",
        f"--mrna-features={folder / 'mrna.csv'}", f"--out={folder / 'out'}",
        "--label", "rna", str(folder / "labels.csv"), "Actual_K562", "none", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("with_list", [True, False])
def test_the_abc_tables_become_ours(abc, capsys, with_list):
    folder, _ = abc
    more = [f"--enhancer-list={folder / 'EnhancerList.txt'}"] if with_list else []
    assert command.main(arguments(folder, *more)) == 0
    genes = tables.read_genes(folder / "out" / "genes.tsv", labels=["rna"])
    links = tables.read_links(folder / "out" / "links.tsv.gz", genes)
    assert genes["gene_id"].tolist() == ["ENSG01", "ENSG02"]
    assert genes["promoter_activity"].tolist() == [6.0, 2.0] and genes["rna"].tolist() == [
        1.5,
        -0.5,
    ]
    assert links["gene_id"].tolist() == ["ENSG01", "ENSG02"]
    assert links["distance"].tolist() == [2250, -850]
    assert links["activity"].tolist() == ([4.0, 6.0] if with_list else [0.5, 0.75])
    assert links["contact"].tolist() == [0.1, 0.0] and links.attrs["missing_contact"] == 1
    assert links["is_self_promoter"].tolist() == [False, True]
    said = capsys.readouterr().out
    assert "contact: hic_contact" in said and "left out 1: farther than 100,000 bp" in said


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("TargetGeneTSS", 5001, "putative.txt:2: TargetGeneTSS is 5001"),
        ("distance", 3000, "putative.txt:2: distance is 3000, but middle minus TSS is 2250"),
        ("end", 7000, "putative.txt:2: end is not after start"),
        ("name", "e9", "element e9 is not in the enhancer list"),
        ("isSelfPromoter", "maybe", "putative.txt:2: isSelfPromoter is 'maybe'"),
        ("activity_base", -1, "putative.txt:2: activity_base is -1"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(abc, capsys, column, value, message):
    folder, frames = abc
    putative = frames["putative.txt"].astype(object)
    putative.loc[0, column] = value
    putative.to_csv(folder / "putative.txt", sep="\t", index=False)
    code = command.main(arguments(folder, f"--enhancer-list={folder / 'EnhancerList.txt'}"))
    assert code == 2 and message in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_a_gene_that_the_list_lacks_is_listed(abc):
    folder, frames = abc
    putative = frames["putative.txt"]
    putative.loc[2, "TargetGene"] = "THREE"
    putative.to_csv(folder / "putative.txt", sep="\t", index=False)
    assert command.main(arguments(folder)) == 0
    dropped = pd.read_csv(folder / "out" / "import.dropped.tsv", sep="\t")
    assert dropped[["gene_id", "reason"]].to_numpy().tolist()[0] == [
        "THREE",
        "gene is not in the gene list",
    ]


def test_either_tables_or_hdf5_are_asked_for(tmp_path, capsys):
    assert command.main(["import", f"--out={tmp_path / 'o'}"]) == 2
    assert command.main(["import", "--h5=a", f"--out={tmp_path / 'o'}"]) == 2
    assert "--h5 needs --genes" in capsys.readouterr().err
