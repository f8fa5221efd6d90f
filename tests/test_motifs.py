"""Motif files, patterns, tables and the page; with the extra packages the whole command (soak)."""

import gzip
import importlib.util
import json
import re
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from epinformer_jax import cli
from epinformer_jax.analysis import attribution_file, motif_files, motifs, motifs_html
from epinformer_jax.analysis.attribution_file import Contributions
from epinformer_jax.analysis.motifs import Pattern

EXTRA = ("modiscolite", "memelite")
MISSING = [name for name in EXTRA if importlib.util.find_spec(name) is None]
needs_extra = pytest.mark.skipif(
    bool(MISSING), reason=f"{' and '.join(MISSING)} not installed; pip install -e '.[interpret]'"
)
JASPAR = """>MA1.1\tone
A  [ 0 10 0 ]
C  [ 10 0 0 ]
G  [ 0 0 5 ]
T  [ 0 0 5 ]
>MA2.1 two words
0.1 1
0.2 0
0.3 0
0.4 0
"""
MEME = """MEME version 4

ALPHABET= ACGT

MOTIF M1 first
letter-probability matrix: alength= 4 w= 2 nsites= 20 E= 0
 0.25 0.25 0.25 0.25
 1 0 0 0
URL http
MOTIF M2
letter-probability matrix: alength= 4 w= 1
 0 0 1 0
"""


def contributions(count=30, length=40, seed=0):
    rng = np.random.default_rng(seed)
    one_hot = np.eye(4, dtype=np.uint8)[rng.integers(0, 4, (count, length))].transpose(0, 2, 1)
    return Contributions(
        np.ascontiguousarray(one_hot),
        rng.normal(size=one_hot.shape).astype(np.float32),
        np.array([f"w{i}" for i in range(count)]),
        np.array(["chr2", "chr10", "chr1"] * count)[:count],
        100 * np.arange(count),
    )


def pattern(name="pos_0", seqlets=((0, 3, 7, False), (1, 5, 9, True), (2, 1, 5, False))):
    probabilities = np.array([[0.97, 0.4, 0.01, 0.3], [0.01, 0.2, 0.97, 0.3]] * 2)
    probabilities = probabilities / probabilities.sum(axis=0, keepdims=True)
    return Pattern(name, probabilities, probabilities * 2 - 0.5, list(seqlets))


# --- files


def test_jaspar_and_meme_files_are_read_plain_and_gzip(tmp_path):
    (tmp_path / "m.pfm.gz").write_bytes(gzip.compress(JASPAR.encode()))
    (tmp_path / "m.meme").write_text(MEME)
    read = motif_files.read_motifs([tmp_path / "m.pfm.gz", tmp_path / "m.meme"])
    assert [(m.id, m.name) for m in read] == [
        ("MA1.1", "one"),
        ("MA2.1", "two words"),
        ("M1", "first"),
        ("M2", ""),
    ]
    share = 10.2 / 10.8
    np.testing.assert_allclose(read[0].probabilities[:, 0], [0.2 / 10.8, share] + 2 * [0.2 / 10.8])
    np.testing.assert_allclose(read[1].probabilities[:, 0], [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(read[2].probabilities, [[0.25, 1], [0.25, 0], [0.25, 0], [0.25, 0]])
    for motif in read:
        np.testing.assert_allclose(motif.probabilities.sum(axis=0), 1)


def test_what_is_written_as_meme_is_read_back(tmp_path):
    (tmp_path / "m.pfm").write_text(JASPAR)
    read = motif_files.read_motifs([tmp_path / "m.pfm"])
    motif_files.write_meme(tmp_path / "again.meme", read)
    again = motif_files.read_motifs([tmp_path / "again.meme"])
    for one, other in zip(read, again, strict=True):
        assert one.id == other.id
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=3e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no motif"),
        ("hello\nworld\n", r"m\.pfm:1: expected a line >id name"),
        (">M x\nA [ 1 2 ]\nC [ 1 2 ]\nG [ 1 2 ]\n", r"m\.pfm:1: expected"),
        (">M x\nA [ 1 ]\nG [ 1 ]\nC [ 1 ]\nT [ 1 ]\n", "not in order A C G T"),
        (">M x\nA [ 1 2 ]\nC [ 1 ]\nG [ 1 2 ]\nT [ 1 2 ]\n", r"rows have \[2, 1, 2, 2\] numbers"),
        (">M x\n0 0\n0 1\n0 1\n0 1\n", "a position without counts"),
        (2 * ">M x\n1\n1\n1\n1\n", "motif 'M' stands twice"),
        ("MEME version 4\nletter-probability matrix: alength= 4\n1 0 0 0\n", "without MOTIF"),
    ],
)
def test_motif_files_that_are_wrong_are_refused(text, message, tmp_path):
    (tmp_path / "m.pfm").write_text(text)
    with pytest.raises(ValueError, match=message):
        motif_files.read_motifs([tmp_path / "m.pfm"])


def test_the_shared_jaspar_file_is_read_whole(shared_data):
    read = motif_files.read_motifs(
        [shared_data / "motifs" / "JASPAR2026_CORE_vertebrates.pfm.txt.gz"]
    )
    assert len(read) > 800 and read[0].id == "MA0002.3" and read[0].name == "Runx1"
    ctcf = next(motif for motif in read if motif.name == "CTCF")
    assert "CCACCAGGGGG" in motif_files.consensus(ctcf.probabilities).upper() or (
        "CCCCCTGGTGG" in motif_files.consensus(ctcf.probabilities).upper()
    )


def test_consensus_shows_how_sure_a_base_is():
    columns = [[0.9, 0.1, 0, 0], [0.1, 0.4, 0.3, 0.2], [0.25, 0.25, 0.25, 0.25]]
    assert motif_files.consensus(np.array(columns).T) == "Acn"


# --- numbers and tables


def test_rates_of_false_discovery_are_those_of_the_definition():
    p = np.array([[0.01, 0.04], [0.03, 0.5]])
    np.testing.assert_allclose(motifs.benjamini_hochberg(p), [[0.04, 0.16 / 3], [0.16 / 3, 0.5]])
    assert (motifs.benjamini_hochberg(np.array([0.9, 0.95])) <= 1).all()


def test_seqlets_lie_where_the_pattern_was_found():
    given = contributions()
    own = pattern()
    table = motifs.seqlet_table(given, [own])
    assert list(table["chrom"]) == ["chr1", "chr2", "chr10"]
    assert list(table["start"]) == [201, 3, 105] and list(table["end"]) == [205, 7, 109]
    assert list(table["strand"]) == ["+", "+", "-"] and list(table["name"]) == ["w2", "w0", "w1"]
    scores = (given.one_hot * given.hypothetical).sum(axis=1)
    np.testing.assert_allclose(table["contribution"][1], scores[0, 3:7].sum(), rtol=1e-6)


def test_patterns_are_cut_to_what_contributes_on_both_strands():
    class Seqlet:
        def __init__(self, example_idx, start, is_revcomp):
            self.example_idx, self.start, self.is_revcomp = example_idx, start, is_revcomp

    class Found:
        sequence = np.full((10, 4), 0.25)
        contrib_scores = np.zeros((10, 4))
        seqlets = (Seqlet(4, 20, False), Seqlet(5, 30, True))

    Found.contrib_scores[2:6, 1] = (1.0, 0.5, 0.2, 0.4)
    own = motifs._pattern("neg_3", Found, 100)
    assert own.probabilities.shape == own.contributions.shape == (4, 4)
    assert own.seqlets == [(4, 122, 126, False), (5, 134, 138, True)]


def test_the_table_of_patterns_names_the_best_match():
    own = [pattern(), pattern("neg_0", ((3, 0, 4, False),))]
    seqlets = motifs.seqlet_table(contributions(), own)
    matches = pd.DataFrame(
        {
            "pattern": ["pos_0", "pos_0"],
            "motif": ["MA1", "MA2"],
            "name": ["one", ""],
            "q": [0.01, 0.2],
            "strand": ["+", "-"],
        }
    )
    table = motifs.pattern_table(own, seqlets, matches)
    assert list(table["best_match"]) == ["MA1 one", ""] and list(table["is_match"]) == [True, False]
    assert list(table["seqlets"]) == [3, 1]


# --- the page


def test_logos_are_svg_of_the_right_heights():
    heights = np.array([[1.0, 0, 0.5], [0, -2.0, 0], [0, 0, 0.25], [0, 0, 0]])
    text = motifs_html.logo(heights, "a & b")
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "a & b"
    letters = [e for e in root if e.tag == "path"]
    scales = [float(re.search(r"scale\(\S+ (\S+)\)", e.get("transform"))[1]) for e in letters]
    np.testing.assert_allclose(
        scales, np.array([1, 2, 0.25, 0.5]) * motifs_html.HEIGHT_PX / 3, atol=0.01
    )
    colours = [e.get("fill") for e in letters]
    assert colours == [motifs_html.COLOURS[letter] for letter in "ACGA"]


def test_information_of_a_certain_base_is_two_bits():
    heights = motifs_html.information(np.array([[1.0, 0.25], [0, 0.25], [0, 0.25], [0, 0.25]]))
    np.testing.assert_allclose(heights, [[2, 0], [0, 0], [0, 0], [0, 0]], atol=1e-6)


def test_the_page_is_whole_and_escaped():
    own = [pattern(), pattern("neg_0")]
    seqlets = motifs.seqlet_table(contributions(), own)
    matches = pd.DataFrame(
        {"pattern": ["pos_0"], "motif": ["M<1>"], "name": ["x&y"], "q": [0.01], "strand": ["-"]}
    )
    table = motifs.pattern_table(own, seqlets, matches)
    shown = {p.name: p.contributions for p in own}
    text = motifs_html.page("T <b>", "facts", table, matches, shown, {"M<1>": np.eye(4)})
    assert "M<1>" not in text and "x&y" not in text and "<b>" not in text
    assert "http" not in text.replace('lang="en"', "") and text.count("<svg") == 3
    assert "No pattern" in motifs_html.page("t", "f", table[:0], matches, {}, {})


# --- the command


def write_attributions(path, given):
    np.savez(
        path,
        one_hot=given.one_hot,
        hypothetical=given.hypothetical,
        chrom=given.chrom,
        start=given.start,
        name=given.name,
    )
    return path


def test_a_missing_extra_is_one_line_that_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "m.pfm").write_text(JASPAR)
    given = write_attributions(tmp_path / "a.npz", contributions())
    arguments = ["--attributions", given, "--motifs", tmp_path / "m.pfm", "--out", tmp_path / "o"]
    for name in ("memelite", "modiscolite", "modiscolite.tfmodisco", "pyjaspar"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(["motifs", *map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "memelite is not installed; pip install" in err
    with pytest.raises(ValueError, match="modisco-lite is not installed; pip install"):
        motifs.discover(contributions())
    with pytest.raises(ValueError, match="pyjaspar, which is not installed; pip install"):
        motif_files.read_motifs(["JASPAR2026"])
    assert not (tmp_path / "o").exists()


@needs_extra
@pytest.mark.soak
@pytest.mark.timeout(900)
def test_planted_motifs_are_found_named_and_located(tmp_path):
    """Two planted words with high contributions: both patterns match their own matrix first."""
    words = {"UP": ("TGACTCATCG", 1.0), "DOWN": ("GGCAAGGTCC", -1.0)}
    given = contributions(400, 120, seed=3)
    one_hot, scores = given.one_hot.copy(), 0.02 * given.hypothetical
    rng = np.random.default_rng(0)
    places = {}
    for row in range(400):
        name = "UP" if row % 2 else "DOWN"
        word, sign = words[name]
        bases = np.array(["ACGT".index(letter) for letter in word])
        is_turned = rng.random() < 0.5
        bases = 3 - bases[::-1] if is_turned else bases
        at = int(rng.integers(20, 90))
        one_hot[row, :, at : at + 10] = np.eye(4, dtype=np.uint8)[bases].T
        scores[row, :, at : at + 10] = -0.3 * sign
        scores[row, bases, np.arange(at, at + 10)] = sign * (1 + 0.1 * rng.random(10))
        places[row] = (name, at, "-" if is_turned else "+")
    given = Contributions(
        one_hot,
        scores.astype(np.float32),
        *(getattr(given, name) for name in ("name", "chrom", "start")),
    )
    lines = []
    for name, (word, _) in words.items():
        rows = [[100 * (letter == base) for letter in word] for base in "ACGT"]
        lines += [f">{name}", *(" ".join(map(str, row)) for row in rows)]
    for decoy in range(60):
        columns = rng.integers(0, 4, 10)
        lines += [f">DECOY{decoy}"]
        lines += [" ".join(str(90 * int(c == base) + 3) for c in columns) for base in range(4)]
    (tmp_path / "m.pfm").write_text("\n".join(lines))
    write_attributions(tmp_path / "a.npz", given)
    assert attribution_file.read(tmp_path / "a.npz").one_hot.shape == (400, 4, 120)
    arguments = ["--attributions", tmp_path / "a.npz", "--motifs", tmp_path / "m.pfm"]
    assert cli.main(["motifs", *map(str, [*arguments, "--out", tmp_path / "out"])]) == 0
    table = pd.read_csv(tmp_path / "out" / "patterns.tsv", sep="\t").set_index("pattern")
    assert table.loc["pos_0", "best_match"] == "UP" and table.loc["pos_0", "q"] < 1e-3
    assert table.loc["neg_0", "best_match"] == "DOWN" and table.loc["neg_0", "q"] < 1e-3
    found = pd.read_csv(tmp_path / "out" / "hits.tsv", sep="\t").set_index("name")
    for row, (name, at, strand) in places.items():
        own = found.loc[[f"w{row}"]]
        own = own[(own["motif"] == name) & (own["start"] == 100 * row + at)]
        assert list(own["strand"]) == [strand] and list(own["end"]) == [100 * row + at + 10]
        assert np.sign(own["contribution"].iloc[0]) == words[name][1]
    seqlets = pd.read_csv(tmp_path / "out" / "seqlets.tsv", sep="\t")
    for own in seqlets.itertuples():
        row = int(own.name[1:])
        assert abs(own.start - 100 * row - places[row][1]) <= 2
    counts = json.loads((tmp_path / "out" / "manifest.json").read_text())["counts"]
    assert counts["patterns"] == len(table) and counts["database"] == 62
    assert cli.main(["motifs", *map(str, [*arguments, "--out", tmp_path / "out"])]) == 2
