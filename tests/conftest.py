"""What all tests share: one CPU device, strict shapes and types, reproducible runs, a clean tree.

Types and shapes of every annotated function of epinformer_jax are checked while tests run
(jaxtyping's import hook with beartype); `test_packaging.py` fails when that is off. Tests that need
several devices run a process of their own through the fixture `run_python`.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

# Before jax is imported. JAX_PLATFORMS in the environment (cuda, tpu) runs the tests there instead.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import hypothesis.configuration
import jax
import jaxtyping
import pytest

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
CHECK_TREE_VARIABLE = "EPINFORMER_CHECK_TREE"
SHARED_DATA_VARIABLE = "EPINFORMER_SHARED_DATA"
PARITY_PACKAGES = ("torch", "tensorflow")

jaxtyping.install_import_hook("epinformer_jax", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.configuration.set_hypothesis_home_dir(
    pathlib.Path(tempfile.gettempdir()) / f"hypothesis-{os.getuid()}"
)
hypothesis.settings.register_profile(
    "epinformer",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("epinformer")


@pytest.fixture(scope="session")
def repository() -> pathlib.Path:
    """The root of the source tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> pathlib.Path:
    """Real data: ../shared/data, or $EPINFORMER_SHARED_DATA; skips where there is none."""
    stated = os.environ.get(SHARED_DATA_VARIABLE)
    if stated:
        directory = pathlib.Path(stated)
        if not directory.is_dir():
            pytest.fail(f"${SHARED_DATA_VARIABLE} is {stated}, which is no directory")
        return directory
    directory = REPOSITORY.parent / "shared" / "data"
    if not directory.is_dir():
        pytest.skip(f"no ../shared/data beside the repository and no ${SHARED_DATA_VARIABLE}")
    return directory


@pytest.fixture(scope="module")
def quick_compilation():
    """tiny_models.quick_compilation for a whole module."""
    import tiny_models  # not above: what it imports must find the hook in place

    with tiny_models.quick_compilation():
        yield


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    """A folder of its own for what is kept between runs."""
    monkeypatch.setenv("EPINFORMER_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def run_python():
    """Runs `python *arguments` in a process of its own that has `devices` CPU devices.

    The process starts in the repository root and sees its packages; type checking and strict shapes
    are off there, as for users. Returns subprocess.CompletedProcess with text output; its exit
    status is the caller's to check.
    """

    def run(*arguments, devices: int = 1, timeout: float = 240, cwd=None, env=None):
        environment = dict(os.environ)
        # how it compiles is for all processes, how many devices it has is not
        flags = environment.pop("XLA_FLAGS", "").split()
        environment["XLA_FLAGS"] = " ".join(f for f in flags if "device_count" not in f)
        paths = [str(REPOSITORY), environment.get("PYTHONPATH", "")]
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        environment.update(JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES=str(devices))
        environment.update(env or {})
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=cwd or REPOSITORY,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    return run


def pytest_collection_modifyitems(items):
    """Skips parity tests where a package they compare with is not installed."""
    for item in items:
        for marker in item.iter_markers("parity"):
            needed = marker.args or PARITY_PACKAGES
            missing = [name for name in needed if importlib.util.find_spec(name) is None]
            if missing:
                reason = f"{' and '.join(missing)} not installed; run `make parity`"
                item.add_marker(pytest.mark.skip(reason=reason))


# Tests write into tmp_path only. With $EPINFORMER_CHECK_TREE, which `make test` sets, the run fails
# when the tree has changed.
_TREE_BEFORE = pytest.StashKey()
_TREE_CHANGES = pytest.StashKey()


def _tree_state() -> frozenset[str] | None:
    """What git lists as changed or new; None where it cannot tell (no git, no repository)."""
    try:
        status = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=all"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return None
    return frozenset(status.stdout.splitlines()) if status.returncode == 0 else None


def _watches_tree(config) -> bool:
    return bool(os.environ.get(CHECK_TREE_VARIABLE)) and not hasattr(config, "workerinput")


def pytest_sessionstart(session):
    """Remembers the state of the tree."""
    if _watches_tree(session.config):
        session.config.stash[_TREE_BEFORE] = _tree_state()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    """Fails the run when tests have left files in the tree or changed some."""
    if not _watches_tree(session.config):
        return
    before, after = session.config.stash[_TREE_BEFORE], _tree_state()
    if before is None or after is None:
        session.config.stash[_TREE_CHANGES] = None
        return
    session.config.stash[_TREE_CHANGES] = sorted(after - before)
    if after - before and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    """Names the files that tests have left in the tree."""
    if not _watches_tree(config):
        return
    changes = config.stash.get(_TREE_CHANGES, None)
    if changes is None:
        terminalreporter.write_line("tree not checked for left-over files: git cannot tell")
    elif changes:
        terminalreporter.section("tests changed the source tree; write into tmp_path", red=True)
        for change in changes:
            terminalreporter.write_line(change)
