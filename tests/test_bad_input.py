"""What people get wrong, given to the commands: exit code not 0 and one line that names it."""

import shutil
import types

import pytest
import tiny_datasets
import tiny_inputs
import tiny_models
import tiny_runs

from data_prep import __main__ as data_prep
from epinformer_jax import config as config_lib
from epinformer_jax import main
from epinformer_jax.train import rundir

BUILD_OPTIONS = ("--window-bp", "400", "--promoter-bp", "200", "--min-distance-bp", "100")


def last_line(text):
    """The one error line, which ends what a command says; a progress bar may stand before it."""
    lines = [line for line in text.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and lines[-1] == errors[0], text
    assert "Traceback" not in text
    return errors[0]


@pytest.fixture
def build(tmp_path, capsys):
    """Runs `data_prep build` on tables it may first spoil; the exit code and the error line."""

    def run(spoil=None, *options):
        files = tiny_inputs.write_tables(tmp_path)
        if spoil is not None:
            spoil(tmp_path)
        given = [f"--{name}={path}" for name, path in files.items()]
        arguments = ["build", *given, "--out", str(tmp_path / "out"), *BUILD_OPTIONS, *options]
        code = data_prep.main(arguments)
        return code, capsys.readouterr().err

    return run


def replaced(file, old, new):
    """Spoils a file: the first `old` becomes `new`."""

    def spoil(folder):
        text = (folder / file).read_text()
        assert old in text, f"{file} has no {old!r}"
        (folder / file).write_text(text.replace(old, new, 1))

    return spoil


def without(file):
    return lambda folder: (folder / file).unlink()


def without_column(file, name):
    def spoil(folder):
        rows = [line.split("\t") for line in (folder / file).read_text().splitlines()]
        place = rows[0].index(name)
        kept = [row[:place] + row[place + 1 :] for row in rows]
        (folder / file).write_text("".join("\t".join(row) + "\n" for row in kept))

    return spoil


def without_contig(name):
    """Takes a contig out of the FASTA."""

    def spoil(folder):
        parts = (folder / "tiny.fa").read_text().split(">")
        kept = [part for part in parts if not part.startswith(f"{name} ")]
        assert len(kept) == len(parts) - 1
        (folder / "tiny.fa").write_text(">".join(kept))

    return spoil


BAD_TABLES = {
    "missing FASTA": (without("tiny.fa"), ["tiny.fa"]),
    "missing genes": (without("genes.tsv"), ["genes.tsv"]),
    "FASTA without the contig": (without_contig("chr10"), ["chr10", "tiny.fa"]),
    "genes without a column": (
        without_column("genes.tsv", "UTR5GC"),
        ["genes.tsv", "column 'UTR5GC' is missing"],
    ),
    "links without a column": (
        without_column("links.tsv", "contact"),
        ["links.tsv", "column 'contact' is missing"],
    ),
    "text in a number": (
        replaced("genes.tsv", "\t2.5\t", "\tmuch\t"),
        ["genes.tsv:2", "promoter_activity", "'much'"],
    ),
    "end before start": (
        replaced("links.tsv", "4000\t5001", "5001\t4000"),
        ["links.tsv:4", "end 4000 is not after start 5001"],
    ),
    "duplicate gene": (
        replaced("genes.tsv", "G4\tchr10", "G2\tchr10"),
        ["genes.tsv:5", "G2"],
    ),
    "NaN label": (replaced("genes.tsv", "1.25", "NaN"), ["genes.tsv:3", "label 'rna' is missing"]),
    "link of an unknown gene": (
        replaced("links.tsv", "G3\tchrX", "G9\tchrX"),
        ["links.tsv:8", "gene 'G9' is not in"],
    ),
    "negative activity": (replaced("links.tsv", "3.0", "-3.0"), ["links.tsv:3", "activity", "-3"]),
    "stray tab": (replaced("links.tsv", "3.0", "3.0\t"), ["links.tsv:3", "7 tab-separated fields"]),
}


@pytest.mark.parametrize("what", BAD_TABLES)
def test_a_wrong_table_stops_the_build_with_its_place(what, build, tmp_path):
    spoil, expected = BAD_TABLES[what]
    code, error = build(spoil)
    line = last_line(error)
    assert code == 2
    for text in expected:
        assert text in line, line
    assert not (tmp_path / "out").exists(), "half an output was left"


def test_the_tables_themselves_are_right(build, tmp_path):
    code, error = build()
    assert code == 0, error
    assert (tmp_path / "out" / "manifest.json").is_file()


def test_an_output_that_exists_is_not_overwritten(build, tmp_path):
    build()
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    code, error = build()
    assert code == 2 and "already exists" in last_line(error)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_an_unknown_command_lists_the_known_ones(capsys):
    assert data_prep.main(["biuld"]) == 2
    assert "unknown command 'biuld'; known: simulate" in last_line(capsys.readouterr().err)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_runs.write_data(tmp_path_factory.mktemp("bad_input"))


@pytest.fixture
def train(monkeypatch, capsys):
    """Runs the training command with a configuration; the exit code and the error line."""

    def run(config, workdir):
        given = {"_CONFIG": config, "_WORKDIR": str(workdir), "_FIELDS": False, "_PROFILE": None}
        monkeypatch.setattr(main, "_prepare", lambda config: None)  # leave this process as it is
        for name, value in given.items():
            monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))
        with pytest.raises(SystemExit) as stopped:
            main._main(["main"])
        return stopped.value.code, last_line(capsys.readouterr().err)

    return run


def test_an_unknown_field_is_named(data, tmp_path, train):
    tree = tiny_runs.config_for(data).to_dict()
    tree["train"]["epohcs"] = 3
    config = config_lib.ml_collections.ConfigDict(tree)
    code, line = train(config, tmp_path / "run")
    assert code == 2
    assert "config.train.epohcs is not a field; did you mean config.train.epochs?" in line


def spoiled_folds(path, old, new):
    text = tiny_datasets.FOLDS
    assert old in text
    path.write_text(text.replace(old, new, 1))
    return str(path)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("chr3\tfold_1\tvalid\n", "", "fold 'fold_1': its valid part is empty"),
        ("chr3\tfold_1\tvalid", "chr9\tfold_1\tvalid", "has none of its valid splits (chr9)"),
        ("chr3\tfold_1\tvalid", "chr3\tfold_1\tvalidate", "folds.tsv:4: role 'validate'"),
        ("chr3\tfold_1\tvalid", "chr2\tfold_1\tvalid", "folds.tsv:4: split 'chr2' is already in"),
        ("split\tfold", "chrom\tfold", "column 'split' is missing"),
    ],
)
def test_a_fold_without_examples_or_sense_is_named(data, tmp_path, train, old, new, expected):
    folds = spoiled_folds(tmp_path / "folds.tsv", old, new)
    code, line = train(tiny_runs.config_for(data, data__folds=folds), tmp_path / "run")
    assert code == 2 and expected in line, line
    assert not (tmp_path / "run").exists()


def test_a_directory_of_another_configuration_is_refused(data, tmp_path, train):
    earlier = tiny_runs.config_for(data, train__epochs=9)
    fingerprints = {"genes": "x", "windows": "y"}
    rundir.open_run(tmp_path / "run", earlier.to_dict(), fingerprints)
    code, line = train(tiny_runs.config_for(data), tmp_path / "run")
    assert code == 2
    assert "run holds a run with config.train.epochs=9, this one has 2; choose another" in line


def test_a_missing_data_set_is_named(data, tmp_path, train):
    config = tiny_runs.config_for(data, data__genes=str(tmp_path / "nowhere"))
    code, line = train(config, tmp_path / "run")
    assert code == 2 and "nowhere" in line and "data_prep build" in line


def test_a_work_directory_that_is_a_file_is_named(data, tmp_path, train):
    (tmp_path / "run").write_text("mine")
    code, line = train(tiny_runs.config_for(data), tmp_path / "run")
    assert code == 2 and str(tmp_path / "run") in line
    assert (tmp_path / "run").read_text() == "mine"


def test_a_damaged_record_is_named_with_file_and_record(data, tmp_path, train):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    (shard,) = (copy / "genes").glob("genes-chr2.tfrecord*")
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    code, line = train(tiny_runs.config_for(copy), tmp_path / "run")
    assert code == 2 and shard.name in line and "record" in line
    code = data_prep.main(["check", str(copy / "genes")])
    assert code != 0


def test_a_damaged_encoder_is_named(data, tmp_path, train):
    from epinformer_jax.train.checkpoint import ModelInfo, save_model

    variables = tiny_models.random_variables(tiny_models.ACTIVITY, seed=0)
    save_model(tmp_path / "encoder_model", variables, ModelInfo(tiny_models.ACTIVITY))
    for path in (tmp_path / "encoder_model" / "checkpoints" / "0" / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:-9])
    config = tiny_runs.config_for(
        data, encoder__source="directory", encoder__directory=str(tmp_path / "encoder_model")
    )
    code, line = train(config, tmp_path / "run")
    assert code == 2 and "encoder_model/checkpoints/0" in line


def test_an_encoder_of_another_shape_is_refused(data, tmp_path, train):
    from epinformer_jax.train.checkpoint import ModelInfo, save_model

    variables = tiny_models.random_variables(tiny_models.ACTIVITY, seed=0)
    save_model(tmp_path / "wide", variables, ModelInfo(tiny_models.ACTIVITY))
    config = tiny_runs.config_for(
        data, encoder__source="directory", encoder__directory=str(tmp_path / "wide")
    )
    code, line = train(config, tmp_path / "run")
    assert code == 2 and "the pre-trained encoder does not fit" in line and len(line) < 2000
