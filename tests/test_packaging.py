"""What is shipped can be used: modules and configs import, commands answer, metadata agree."""

import ast
import configparser
import importlib
import importlib.metadata
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tomllib

import jax.numpy as jnp
import jaxtyping
import ml_collections
import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from epinformer_jax import config as config_lib

ROOT = pathlib.Path(__file__).resolve().parent.parent
PACKAGES = ("epinformer_jax", "data_prep", "configs")
EXTRAS = ("genomics", "interpret", "beam", "tf", "dev")
# Import name -> distribution, for optional packages that the test environment may lack.
OPTIONAL = {"apache_beam": "apache-beam", "modiscolite": "modisco-lite"}

DATA_PREP_COMMANDS = (
    "simulate",
    "download",
    "run",
    "import",
    "folds",
    "mpra",
    "sequences",
    "signals",
    "contact",
    "candidates",
    "links",
    "genes",
    "windows",
    "build",
    "check",
)
EPINFORMER_COMMANDS = (
    "convert",
    "activity",
    "predict",
    "perturb",
    "links",
    "locus",
    "mutagenesis",
    "attribution",
    "variants",
    "motifs",
    "benchmark",
    "report",
)


def module_names() -> list[str]:
    """Every module of the packages, dotted."""
    names = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def config_files() -> list[pathlib.Path]:
    """The configuration files a user can name with --config."""
    return [path for path in sorted((ROOT / "configs").glob("*.py")) if path.stem != "__init__"]


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def requirements(text: str) -> list[Requirement]:
    """The requirements of one setup.cfg value, a line each."""
    return [Requirement(line) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("name", module_names())
def test_module_imports(name):
    assert importlib.import_module(name).__name__ == name


def test_every_config_file_makes_a_locked_config():
    assert config_files(), f"no configs under {ROOT}"
    for path in config_files():
        spec = importlib.util.spec_from_file_location(f"_config_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = module.get_config()
        assert isinstance(config, ml_collections.ConfigDict), path
        config_lib.check(config)
        assert config.is_locked, f"{path}: end get_config with `return config.lock()`"


@pytest.mark.parametrize(
    "module", ["epinformer_jax.main", "epinformer_jax.cli", "data_prep", "data_prep.__main__"]
)
def test_command_answers_help(module, run_python):
    done = run_python("-m", module, "--help")
    # absl's --help ends with status 1 by design.
    assert done.returncode == 0 or module == "epinformer_jax.main", done.stderr
    assert len(done.stdout.splitlines()) >= 3, done.stderr
    assert "Traceback" not in done.stderr
    if module == "epinformer_jax.main":
        assert "--config" in done.stdout and "--workdir" in done.stdout


@pytest.mark.parametrize(
    ("module", "command"),
    [("data_prep.__main__", command) for command in DATA_PREP_COMMANDS]
    + [("epinformer_jax.cli", command) for command in EPINFORMER_COMMANDS],
)
def test_subcommand_answers_help(module, command, capsys):
    with pytest.raises(SystemExit) as stopped:
        importlib.import_module(module).main([command, "--help"])
    assert stopped.value.code in (0, None)
    text = capsys.readouterr().out
    assert command in text and "--" in text.replace("--help", "")


def test_type_checking_is_on():
    sequence = importlib.import_module("epinformer_jax.data.sequence")
    with pytest.raises(jaxtyping.TypeCheckError):
        sequence.decode(3.5)
    assert sequence.decode(np.array([1, 2, 4, 8], np.uint8)) == "ACGT"


def test_every_module_of_the_package_is_type_checked():
    for name in module_names():
        if name.split(".")[0] == "epinformer_jax":
            loader = importlib.import_module(name).__spec__.loader
            assert type(loader).__module__.startswith("jaxtyping"), f"{name}: {loader}"


def test_mixed_ranks_raise():
    with pytest.raises(ValueError, match="rank"):
        jnp.ones((2, 3)) + jnp.ones(3)


def test_installed_packages_are_in_the_stated_ranges(setup_cfg):
    stated = setup_cfg["options"]["install_requires"]
    for requirement in requirements(stated + setup_cfg["options.extras_require"]["genomics"]):
        version = importlib.metadata.version(requirement.name)
        assert requirement.specifier.contains(version, prereleases=True), (
            f"{requirement} but {version} is installed"
        )


def test_extras_are_the_documented_ones_and_parse(setup_cfg):
    extras = setup_cfg["options.extras_require"]
    assert sorted(extras) == sorted(EXTRAS)
    for name in extras:
        for requirement in requirements(extras[name]):
            assert re.fullmatch(r"[A-Za-z0-9_.-]+", requirement.name)
            assert requirement.specifier or requirement.extras <= set(EXTRAS), requirement
            if canonicalize_name(requirement.name) == "epinformer-jax":
                assert requirement.extras, f"{name}: {requirement} names no extra"


def test_torch_and_tensorflow_are_never_required(setup_cfg):
    extras = setup_cfg["options.extras_require"]
    stated = {"core": setup_cfg["options"]["install_requires"], **extras}
    heavy = {
        (name, requirement.name)
        for name, text in stated.items()
        for requirement in requirements(text)
        if requirement.name.split("-")[0] in ("torch", "tensorflow")
        and requirement.name != "tensorflow-datasets"
    }
    assert heavy == {("tf", "tensorflow"), ("tf", "tensorflow-cpu")}


def third_party_imports(path: pathlib.Path) -> set[str]:
    """Top-level names of the foreign packages that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module.split(".")[0])
    return names - set(PACKAGES) - sys.stdlib_module_names


def test_every_third_party_import_is_a_stated_requirement(setup_cfg):
    """A package that another one happens to bring can vanish with that one's next version."""
    extras = setup_cfg["options.extras_require"]
    stated = "\n".join([setup_cfg["options"]["install_requires"], *extras.values()])
    names = {canonicalize_name(requirement.name) for requirement in requirements(stated)}
    owners = importlib.metadata.packages_distributions()
    unstated = {
        f"{path.relative_to(ROOT)}: {module}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for module in third_party_imports(path)
        if not names
        & {canonicalize_name(n) for n in owners.get(module, [OPTIONAL.get(module, module)])}
    }
    assert not unstated, "\n".join(sorted(unstated))


def test_every_folder_with_code_is_a_package_and_every_data_file_is_shipped(setup_cfg):
    shipped = setup_cfg["options.package_data"]
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"
            if path.suffix == ".py":
                continue
            folder = ".".join(path.parent.relative_to(ROOT).parts)
            patterns = shipped.get(folder, "").split()
            assert any(path.match(pattern) for pattern in patterns), (
                f"{path.relative_to(ROOT)} is not in setup.cfg's package_data of {folder}"
            )


def test_version_is_the_same_everywhere(setup_cfg):
    version = setup_cfg["metadata"]["version"]
    latest = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert latest and latest[1] == version


def test_console_script_points_to_a_function(setup_cfg):
    line = setup_cfg["options.entry_points"]["console_scripts"].strip()
    name, _, target = line.partition(" = ")
    module, _, function = target.partition(":")
    assert name == "epinformer"
    assert callable(getattr(importlib.import_module(module), function))


def test_minimum_python_is_the_same_everywhere(setup_cfg):
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]
    assert setup_cfg["options"]["python_requires"] == ">=3.11"
    assert ruff["target-version"] == "py311"
    assert "(3, 11)" in (ROOT / "Makefile").read_text("utf-8")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_without_a_command_lists_every_command():
    listed = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for command in ("test", "demo", "parity", "bench", "soak", "clean"):
        assert re.search(rf"^  {command}\s+\S", listed, re.M), listed


def test_ci_script_is_executable_bash():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True)
