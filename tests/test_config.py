"""Configuration: every field has a default, a meaning and a check; what is wrong is named."""

import ast
import hashlib
import json
import pathlib

import ml_collections
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epinformer_jax import config as config_lib

PATHS = dict(config_lib._walk(config_lib.FIELDS))


def valid() -> ml_collections.ConfigDict:
    """The defaults with the one thing that has none."""
    config = config_lib.default()
    config.data.genes = "records/genes"
    return config


def with_value(path, value):
    """A valid configuration with one field set, whatever its type."""
    tree = valid().to_dict()
    *folders, last = path.split(".")
    node = tree
    for folder in folders:
        node = node[folder]
    node[last] = value
    return ml_collections.ConfigDict(tree)


def test_defaults_are_allowed_and_locked():
    config = valid()
    config_lib.check(config)
    assert config.is_locked
    with pytest.raises(AttributeError, match="epoch"):
        config.train.epoch = 3


def test_defaults_are_the_published_recipe():
    config = config_lib.default()
    assert config.model.channels == (128, 64, 64, 128) and config.model.stem_channels == 256
    assert (config.train.learning_rate, config.train.weight_decay) == (5e-4, 1e-6)
    assert (config.train.batch_size, config.train.epochs, config.train.patience_epochs) == (
        16,
        100,
        3,
    )
    assert (config.train.loss, config.train.score) == ("smooth_l1", "pearson_squared")
    assert config.model.statistics == "padded" and config.features.schema == "published"
    assert (config.model.window_bp, config.model.max_elements) == (2000, 60)
    assert (config.pretrain.batch_size, config.pretrain.patience_epochs) == (64, 5)


@pytest.mark.parametrize("path", PATHS)
def test_every_field_allows_its_default_and_says_what_it_is(path):
    field = PATHS[path]
    assert field.allowed(field.default)
    assert len(field.meaning) > 3 and len(field.expected) > 3


@pytest.mark.parametrize("path", PATHS)
def test_a_value_of_another_type_is_refused_by_name(path):
    default = PATHS[path].default
    wrong = 3.5 if isinstance(default, int | str) else "text"
    if isinstance(default, tuple):
        wrong = (object(),)
    with pytest.raises(ValueError, match=rf"^config\.{path}=.*: expected "):
        config_lib.check(with_value(path, wrong))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("seed", 2**32),
        ("seed", True),
        ("task", "expresion"),
        ("data.strands", "reverse"),
        ("data.shift_bp", -1),
        ("features.preset", "HiC"),
        ("model.window_bp", 8),
        ("model.channels", ()),
        ("model.channels", (64, 0)),
        ("model.channels", (64, True)),
        ("data.fold_names", "fold_1"),
        ("model.activity_dropout", 1.0),
        ("model.activity_dropout", -0.1),
        ("model.compute_dtype", "float16"),
        ("train.learning_rate", float("nan")),
        ("train.learning_rate", float("inf")),
        ("train.learning_rate", -1e-3),
        ("train.weight_decay", "0"),
        ("train.epochs", 0),
        ("train.layouts", 33),
        ("pretrain.score", "r2"),
    ],
)
def test_a_value_out_of_range_is_refused_with_what_is_allowed(path, value):
    with pytest.raises(ValueError, match=rf"^config\.{path}=.*: expected ") as raised:
        config_lib.check(with_value(path, value))
    assert PATHS[path].expected in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", 2**32 - 1),
        ("train.learning_rate", 0),
        ("train.patience_epochs", 0),
        ("train.layouts", 32),
    ],
)
def test_values_at_the_border_are_allowed(path, value):
    config_lib.check(with_value(path, value))


def test_an_unknown_field_is_refused_with_the_nearest_known_one():
    with pytest.raises(
        ValueError, match=r"^config.train.epohcs is not a field; did you mean config"
    ):
        config_lib.check(with_value("train.epohcs", 3))
    with pytest.raises(ValueError, match="did you mean config.train.epochs"):
        config_lib.check_name("train.epohcs")
    with pytest.raises(ValueError, match="config.zzz is not a field; --fields lists all"):
        config_lib.check_name("zzz")
    with pytest.raises(ValueError, match="config.train.nonsense is not a field; --fields lists"):
        config_lib.check_name("train.nonsense")


def test_a_missing_field_is_named():
    tree = valid().to_dict()
    del tree["train"]["epochs"]
    with pytest.raises(ValueError, match=r"^config.train.epochs is missing"):
        config_lib.check(ml_collections.ConfigDict(tree))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data.genes": ""}, "config.data.genes is empty"),
        ({"task": "activity"}, "config.data.windows is empty"),
        ({"encoder.source": "pretrain"}, "config.data.windows is empty"),
        ({"encoder.source": "directory"}, "config.encoder.directory is empty"),
        ({"encoder.mode": "frozen"}, "would freeze random weights"),
        ({"encoder.mode": "frozen_as_published"}, "would freeze random weights"),
        (
            {"task": "activity", "data.windows": "w", "encoder.source": "pretrain"},
            "is for the expression model",
        ),
        (
            {"second_stage.epochs": 1, "features.preset": "PE"},
            "the second stage switches promoter signals on",
        ),
        (
            {"train.encoder_cache": "on", "encoder.mode": "frozen", "data.shift_bp": 12},
            "stay alike: config.data.shift_bp must be 0, got 12. Set that",
        ),
        (
            {"train.encoder_cache": "on"},
            "stay alike: config.encoder.mode must be 'frozen', got 'tuned'. Set that",
        ),
    ],
)
def test_fields_that_do_not_go_together_are_refused(changes, message):
    config = valid()
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message) as raised:
        config_lib.check(config)
    assert "\n" not in str(raised.value)


def test_an_activity_run_needs_no_genes():
    config = config_lib.default()
    config.task, config.data.windows = "activity", "records/windows"
    config_lib.check(config)


def test_the_fingerprint_is_that_of_the_values():
    first, second = valid(), valid()
    assert config_lib.fingerprint(first) == config_lib.fingerprint(second)
    second.train.epochs += 1
    assert config_lib.fingerprint(first) != config_lib.fingerprint(second)
    text = config_lib.to_json(first)
    assert json.loads(text)["train"]["epochs"] == 100
    assert config_lib.fingerprint(first) == hashlib.sha256(text.encode()).hexdigest()


def test_the_list_of_fields_has_a_line_for_each_with_its_default():
    lines = config_lib.describe().splitlines()
    assert len(lines) == len(PATHS)
    for line, (path, field) in zip(lines, PATHS.items(), strict=True):
        name, _, rest = line.partition(" = ")
        assert name == f"config.{path}" and field.meaning in rest
        assert ast.literal_eval(rest.split("  #")[0]) == field.default


@given(st.sampled_from(sorted(PATHS)), st.one_of(st.none(), st.floats(), st.text(), st.integers()))
def test_whatever_stands_in_a_field_is_allowed_or_refused_in_one_line(path, value):
    try:
        config_lib.check(with_value(path, value))
    except ValueError as error:
        assert str(error).startswith("config.") and "\n" not in repr(str(error))


CONFIG_FILE = """from epinformer_jax import config as config_lib

def get_config():
    config = config_lib.default()
    {line}
    return config.lock()
"""


def test_a_configuration_file_is_read(tmp_path):
    path = tmp_path / "good.py"
    path.write_text(CONFIG_FILE.format(line="config.train.epochs = 7"))
    assert config_lib.load_file(str(path)).train.epochs == 7


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train.epohcs = 7", 'epohcs" does not exist .*Did you mean "epochs"'),
        ("config.train.epochs = 'many'", "epochs.*cannot be casted to type"),
        ("config.train.epochs = = 7", "invalid syntax"),
        ("raise RuntimeError('no\\n' 'luck')", "no luck"),
    ],
)
def test_a_configuration_file_that_fails_is_named_with_its_line(tmp_path, line, message):
    path = tmp_path / "bad.py"
    path.write_text(CONFIG_FILE.format(line=line))
    with pytest.raises(ValueError, match=rf"bad\.py:5: .*{message}") as raised:
        config_lib.load_file(str(path))
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


def test_a_file_that_is_no_configuration_is_refused(tmp_path):
    with pytest.raises(ValueError, match="nowhere.py: there is no such configuration file"):
        config_lib.load_file(str(tmp_path / "nowhere.py"))
    path = tmp_path / "empty.py"
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match="empty.py: defines no function get_config"):
        config_lib.load_file(str(path))


def test_every_shipped_configuration_only_chooses(repository):
    """A file in configs/ sets fields; a loop or a condition would hide what is run."""
    for path in sorted((repository / "configs").glob("*.py")):
        tree = ast.parse(pathlib.Path(path).read_text("utf-8"))
        banned = (ast.For, ast.While, ast.If, ast.ListComp, ast.Lambda)
        found = [type(node).__name__ for node in ast.walk(tree) if isinstance(node, banned)]
        assert not found, f"{path}: {found}"
