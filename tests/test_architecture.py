"""The rooms of the code and who may import whom, read from the sources.

Each rule is a function from a root folder to the list of its violations, so that the same rule runs
on the repository and on small trees, planted with one violation each, that must be found guilty.
"""

import ast
import pathlib
from collections.abc import Iterator

import pytest

PACKAGES = ("epinformer_jax", "data_prep", "configs")
MAX_FILE_LINES = 450
MAX_FUNCTION_LINES = 80
BANNED_NAMES = {"utils", "util", "common", "helpers", "helper", "misc"}

# Room -> what of ours it may import besides itself; the longest matching name counts.
EVERYTHING = PACKAGES
MAY_IMPORT = {
    "epinformer_jax": EVERYTHING,  # its __init__ only: the public names, loaded when asked for
    "epinformer_jax.main": EVERYTHING,
    "epinformer_jax.cli": EVERYTHING,
    "epinformer_jax.config": (),
    "epinformer_jax.launch": (),
    "epinformer_jax.messages": (),  # quiets third-party loggers for the two commands
    # The converter is three files: the command, reading the zip, and the table of names.
    "epinformer_jax.convert": (
        "epinformer_jax.data",
        "epinformer_jax.model.architecture",
        "epinformer_jax.model.functional",
        "epinformer_jax.torch_names",
        "epinformer_jax.torch_zip",
        "epinformer_jax.train.checkpoint",
    ),
    "epinformer_jax.torch_names": (
        "epinformer_jax.model.architecture",
        "epinformer_jax.model.functional",
    ),
    "epinformer_jax.torch_zip": (),
    "epinformer_jax.data": (),
    "epinformer_jax.model": (),
    "epinformer_jax.train": ("epinformer_jax.data", "epinformer_jax.model"),
    "epinformer_jax.analysis": (
        "epinformer_jax.data",
        "epinformer_jax.model",
        "epinformer_jax.train.checkpoint",
        "epinformer_jax.train.tasks",
        "epinformer_jax.train.metrics",
    ),
    # A benchmark stands beside the scalar baselines and leaves its files as a run does.
    "epinformer_jax.analysis.benchmark_expression": (
        "epinformer_jax.analysis",
        "epinformer_jax.data",
        "epinformer_jax.train.baselines",
        "epinformer_jax.train.metrics",
        "epinformer_jax.train.rundir",
    ),
    "epinformer_jax.analysis.benchmark_links": (
        "epinformer_jax.analysis",
        "epinformer_jax.data",
        "epinformer_jax.train.rundir",
    ),
    "epinformer_jax.analysis.benchmark_satmut": (
        "epinformer_jax.analysis",
        "epinformer_jax.data",
        "epinformer_jax.train.metrics",
        "epinformer_jax.train.rundir",
    ),
    "configs": ("epinformer_jax.config",),
    "data_prep": ("epinformer_jax.data",),
    # Both commands answer a wrong argument alike.
    "data_prep.__main__": ("data_prep", "epinformer_jax.messages"),
}

# Heavy or optional package -> the only places that may import it. An empty tuple: tests only.
PLOTS = (
    "epinformer_jax.analysis.plots",
    "epinformer_jax.analysis.plots_benchmark",
    "epinformer_jax.analysis.plots_locus",
    "epinformer_jax.analysis.plots_logo",
)
GENOME_FILES = ("data_prep", "epinformer_jax.data.genome", "epinformer_jax.analysis.tracks")
FENCES = {
    "matplotlib": PLOTS,
    "logomaker": PLOTS,
    "pysam": (*GENOME_FILES, "epinformer_jax.analysis.vcf"),
    "pyBigWig": GENOME_FILES,
    "hictkpy": GENOME_FILES,
    "cooler": GENOME_FILES,
    "h5py": GENOME_FILES,
    "bioframe": GENOME_FILES,
    "torch": (),
    "tensorflow": (),
    "tensorflow_datasets": ("data_prep", "epinformer_jax.data.records"),
    "apache_beam": ("data_prep",),
    "sklearn": ("epinformer_jax.train.baselines",),
}
NOT_LOADED_BY_IMPORT = ("jax", "flax", "tensorflow", "torch", "matplotlib", "pysam", "pandas")


def source_files(root: pathlib.Path) -> list[pathlib.Path]:
    """Every Python file of the packages, sorted."""
    return sorted(path for package in PACKAGES for path in (root / package).rglob("*.py"))


def module_name(root: pathlib.Path, path: pathlib.Path) -> str:
    """epinformer_jax/data/__init__.py -> epinformer_jax.data"""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def within(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a dotted name is one of the prefixes or lies below it."""
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def room_of(module: str) -> str | None:
    """The row of MAY_IMPORT that rules a module, or None."""
    if module == "epinformer_jax":
        return module
    rooms = [room for room in MAY_IMPORT if room != "epinformer_jax" and within(module, (room,))]
    return max(rooms, key=len, default=None)


def is_module(root: pathlib.Path, name: str) -> bool:
    """Whether a dotted name is a module or package in the tree."""
    path = root.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def imported_names(
    root: pathlib.Path, path: pathlib.Path, tree: ast.Module
) -> Iterator[tuple[int, str]]:
    """Line and full name of all that a file imports, at any depth; '?' for a computed name."""
    package = module_name(root, path)
    if path.name != "__init__.py":
        package = package.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")
                above = parents[: len(parents) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                of_ours = base.split(".")[0] in PACKAGES
                yield node.lineno, full if not of_ours or is_module(root, full) else base
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("importlib.import_module", "import_module", "__import__"):
                first = node.args[0] if node.args else None
                is_text = isinstance(first, ast.Constant) and isinstance(first.value, str)
                yield node.lineno, first.value if is_text else "?"


def functions_of(tree: ast.Module) -> Iterator[tuple[str, ast.AST, bool]]:
    """Name, node and publicity of each function, class and method; nested functions are inside."""

    def walk(node, prefix, public):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                name = f"{prefix}{child.name}"
                shown = public and not child.name.startswith("_")
                yield name, child, shown
                if isinstance(child, ast.ClassDef):
                    yield from walk(child, f"{name}.", shown)
            elif isinstance(child, (ast.If, ast.Try, ast.With)):
                yield from walk(child, prefix, public)

    yield from walk(tree, "", True)


def is_overload(node: ast.AST) -> bool:
    """Property setters and typing overloads document themselves elsewhere."""
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    return any(name.endswith((".setter", ".deleter", "overload")) for name in decorators)


def parsed(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, str, ast.Module]]:
    """Path, module name and syntax tree of each source file."""
    for path in source_files(root):
        yield path, module_name(root, path), ast.parse(path.read_text("utf-8"), str(path))


def wrong_imports(root: pathlib.Path) -> list[str]:
    """Imports of our own that the table does not allow, and modules that it does not know."""
    found = []
    for path, module, tree in parsed(root):
        room = room_of(module)
        if room is None:
            found.append(f"{path}: {module} stands in no room; add it to MAY_IMPORT or move it")
            continue
        for line, name in imported_names(root, path, tree):
            if name == "?":
                found.append(f"{path}:{line}: imports a computed name; name the module")
            elif name.split(".")[0] in PACKAGES and not within(name, (room, *MAY_IMPORT[room])):
                found.append(f"{path}:{line}: {module} may not import {name}")
    return found


def broken_fences(root: pathlib.Path) -> list[str]:
    """Heavy packages imported outside their place."""
    found = []
    for path, module, tree in parsed(root):
        for line, name in imported_names(root, path, tree):
            package = name.split(".")[0]
            places = FENCES.get(package)
            if places is None:
                continue
            # records* may be split over several files: records.py, records_manifest.py ...
            allowed = within(module, places) or (
                package == "tensorflow_datasets"
                and module.startswith("epinformer_jax.data.records")
            )
            if not allowed:
                where = " and ".join(places) or "tests"
                found.append(f"{path}:{line}: {package} belongs in {where} only")
    return found


def too_long(root: pathlib.Path) -> list[str]:
    """Files and functions beyond their limits."""
    found = []
    for path, _, tree in parsed(root):
        lines = len(path.read_text("utf-8").splitlines())
        if lines > MAX_FILE_LINES:
            found.append(f"{path}: {lines} lines, at most {MAX_FILE_LINES}")
        for name, node, _ in functions_of(tree):
            length = node.end_lineno - node.lineno + 1
            if not isinstance(node, ast.ClassDef) and length > MAX_FUNCTION_LINES:
                found.append(
                    f"{path}:{node.lineno}: {name} has {length} lines, at most {MAX_FUNCTION_LINES}"
                )
    return found


def banned_names(root: pathlib.Path) -> list[str]:
    """Files and folders named after nothing."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*")):
            words = set(path.stem.lower().split("_"))
            if path.name != "__pycache__" and words & BANNED_NAMES:
                found.append(f"{path}: say what is in it; not {' '.join(words & BANNED_NAMES)}")
    return found


def missing_docstrings(root: pathlib.Path) -> list[str]:
    """Modules and public names without a docstring; get_config of a config needs none."""
    found = []
    for path, module, tree in parsed(root):
        if not ast.get_docstring(tree):
            found.append(f"{path}: the module has no docstring")
        for name, node, public in functions_of(tree):
            exempt = is_overload(node) or (name == "get_config" and within(module, ("configs",)))
            if public and not exempt and not ast.get_docstring(node):
                found.append(f"{path}:{node.lineno}: {name} has no docstring")
    return found


RULES = [wrong_imports, broken_fences, too_long, banned_names, missing_docstrings]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_sources_keep_the_rule(rule, repository):
    assert source_files(repository), f"no sources under {repository}"
    violations = [line.replace(f"{repository}/", "") for line in rule(repository)]
    assert not violations, "\n" + "\n".join(violations)


def plant(root: pathlib.Path, path: str, text: str) -> None:
    """Writes a source file into a made-up tree."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


LONG_FUNCTION = '"""Doc."""\n\n\ndef f():\n    """Doc."""\n' + "    x = 1\n" * MAX_FUNCTION_LINES
PLANTED = [
    (wrong_imports, "epinformer_jax/model/a.py", "from epinformer_jax.data import b\n"),
    (wrong_imports, "epinformer_jax/model/a.py", "from epinformer_jax import data\n"),
    (wrong_imports, "epinformer_jax/model/a.py", "from ..data import b\n"),
    (wrong_imports, "epinformer_jax/model/a.py", "from .. import data\n"),
    (wrong_imports, "epinformer_jax/model/a.py", "def f():\n    import epinformer_jax.data.b\n"),
    (wrong_imports, "epinformer_jax/model/a.py", "import epinformer_jax\n"),
    (wrong_imports, "epinformer_jax/data/a.py", "import data_prep.links\n"),
    (wrong_imports, "epinformer_jax/train/a.py", "from epinformer_jax.analysis import plots\n"),
    (wrong_imports, "epinformer_jax/analysis/a.py", "from epinformer_jax.train import loop\n"),
    (wrong_imports, "epinformer_jax/convert.py", "from epinformer_jax.model import layers\n"),
    (wrong_imports, "data_prep/a.py", "from epinformer_jax import config\n"),
    (wrong_imports, "configs/a.py", "import epinformer_jax.model\n"),
    (wrong_imports, "epinformer_jax/new_room/a.py", ""),
    (wrong_imports, "epinformer_jax/stray.py", ""),
    (wrong_imports, "epinformer_jax/main.py", "import importlib\nimportlib.import_module(name)\n"),
    (wrong_imports, "data_prep/a.py", "import_module('epinformer_jax.cli')\n"),
    (broken_fences, "epinformer_jax/analysis/report.py", "import matplotlib.pyplot as plt\n"),
    (broken_fences, "epinformer_jax/data/tables.py", "from pysam import FastaFile\n"),
    (broken_fences, "epinformer_jax/train/loop.py", "def f():\n    import tensorflow as tf\n"),
    (broken_fences, "data_prep/a.py", "import torch.nn\n"),
    (broken_fences, "epinformer_jax/data/loader.py", "import tensorflow_datasets as tfds\n"),
    (broken_fences, "epinformer_jax/train/metrics.py", "from sklearn import metrics\n"),
    (too_long, "data_prep/a.py", "x = 1\n" * (MAX_FILE_LINES + 1)),
    (too_long, "data_prep/a.py", LONG_FUNCTION),
    (banned_names, "data_prep/utils.py", ""),
    (banned_names, "epinformer_jax/data/io_helpers.py", ""),
    (banned_names, "epinformer_jax/common/__init__.py", ""),
    (missing_docstrings, "data_prep/a.py", "x = 1\n"),
    (missing_docstrings, "data_prep/a.py", '"""Doc."""\ndef f(): ...\n'),
    (missing_docstrings, "data_prep/a.py", '"""Doc."""\nclass A:\n  "Doc."\n  def f(self): ...\n'),
]


@pytest.mark.parametrize(
    ("rule", "path", "text"),
    PLANTED,
    ids=[f"{number}-{rule.__name__}-{path}" for number, (rule, path, _) in enumerate(PLANTED)],
)
def test_each_rule_finds_a_planted_violation(rule, path, text, tmp_path):
    for neighbour in ("data/__init__", "train/loop", "config"):
        plant(tmp_path, f"epinformer_jax/{neighbour}.py", '"""Doc."""\n')
    assert rule(tmp_path) == []
    plant(tmp_path, path, text)
    assert len(rule(tmp_path)) == 1


def test_the_rules_allow_what_the_design_allows(tmp_path):
    doc = '"""Doc."""\n'
    allowed = {
        "epinformer_jax/__init__.py": "def __getattr__(name):\n    from .analysis import predict\n",
        "epinformer_jax/main.py": "from epinformer_jax import config, data, train\n",
        "epinformer_jax/config.py": "import dataclasses\n",
        "epinformer_jax/convert.py": "from epinformer_jax.model import functional\n",
        "epinformer_jax/data/genome.py": "import pysam\nfrom . import sequence\n",
        "epinformer_jax/data/sequence.py": "import numpy as np\n",
        "epinformer_jax/data/records_manifest.py": "import tensorflow_datasets as tfds\n",
        "epinformer_jax/model/functional.py": "import jax\n",
        "epinformer_jax/train/baselines.py": "import sklearn\nfrom epinformer_jax import model\n",
        "epinformer_jax/train/metrics.py": "class _Hidden:\n    def f(self): ...\n",
        "epinformer_jax/analysis/plots.py": "import matplotlib\n",
        "epinformer_jax/analysis/predict.py": "from ..train.metrics import pearson\n",
        "data_prep/links.py": "import bioframe\nfrom epinformer_jax.data.tables import read\n",
        "configs/demo.py": "from epinformer_jax import config\ndef get_config(): ...\n",
    }
    for path, text in allowed.items():
        plant(tmp_path, path, doc + text)
    assert [line for rule in RULES for line in rule(tmp_path)] == []


def test_importing_the_package_loads_nothing_heavy(run_python):
    code = (
        "import sys, epinformer_jax; "
        f"print(*[name for name in {NOT_LOADED_BY_IMPORT!r} if name in sys.modules])"
    )
    done = run_python("-W", "error", "-c", code)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr
