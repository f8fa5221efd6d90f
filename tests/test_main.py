"""The training command: wrong flags, files and values end in one line on stderr, exit code 2."""

import types

import pytest
import tiny_runs

from epinformer_jax import config as config_lib
from epinformer_jax import main

MODULE = "epinformer_jax.main"


def assert_one_line(done, message):
    """Exit code 2 and one line that says it; no traceback."""
    lines = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert message in lines[0]


@pytest.fixture
def command(run_python, tmp_path):
    def run(*arguments):
        return run_python("-m", MODULE, *arguments)

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give --config FILE and --workdir DIRECTORY"),
        (("--config", "configs/demo.py", "--nosuch=1"), "Unknown command line flag 'nosuch'"),
        (("--config", "configs/nowhere.py"), "configs/nowhere.py: there is no such configuration"),
        (
            ("--config=configs/demo.py", "--config.train.epohcs=3"),
            "config.train.epohcs is not a field; did you mean config.train.epochs?",
        ),
        (("--config=configs/demo.py", "--config.train.epochs=many"), "--config.train.epochs=many"),
        (
            ("--config=configs/demo.py", "--workdir=x", "--config.train.epochs=0"),
            "config.train.epochs=0: expected a whole number of at least 1",
        ),
        (("--config=configs/demo.py", "--workdir=x", "stray"), "unexpected argument 'stray'"),
    ],
)
def test_a_wrong_command_line_ends_in_one_line(command, arguments, message):
    assert_one_line(command(*arguments), message)


def test_the_list_of_fields_is_printed(command):
    done = command("--fields")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == config_lib.describe()


def test_heavy_packages_wait_until_the_configuration_is_checked(run_python):
    script = (
        "import sys\n"
        "from epinformer_jax import main\n"
        "sys.argv = ['main', '--config=configs/demo.py', '--workdir=x', '--config.seed=-1']\n"
        "try:\n    main.run()\n"
        "except SystemExit:\n    print(*({'jax', 'flax', 'pandas'} & set(sys.modules)))\n"
    )
    done = run_python("-c", script)
    assert done.stdout.strip() == "", done.stdout


@pytest.fixture
def flags(monkeypatch):
    """Sets what the command line gave, without parsing one: the flags live once a process."""

    def set_flags(config, workdir):
        for name, value in (
            ("_CONFIG", config),
            ("_WORKDIR", workdir),
            ("_FIELDS", False),
            ("_PROFILE", None),
        ):
            monkeypatch.setattr(main, name, types.SimpleNamespace(value=value))

    return set_flags


@pytest.mark.parametrize("error", [ValueError("two\nlines"), OSError("no\nspace")])
def test_an_expected_failure_is_one_line(flags, tmp_path, monkeypatch, capsys, error):
    def fail(config, workdir):
        raise error

    flags(tiny_runs.config_for(tmp_path), str(tmp_path / "run"))
    monkeypatch.setitem(main.TASKS, "expression", fail)
    with pytest.raises(SystemExit) as stopped:
        main._main(["main"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: {' '.join(str(error).split())}\n"


def test_an_interrupt_says_how_to_go_on(flags, tmp_path, monkeypatch, capsys):
    def interrupt(config, workdir):
        raise KeyboardInterrupt

    flags(tiny_runs.config_for(tmp_path), str(tmp_path / "run"))
    monkeypatch.setitem(main.TASKS, "expression", interrupt)
    with pytest.raises(SystemExit) as stopped:
        main._main(["main"])
    assert stopped.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_an_unexpected_failure_keeps_its_traceback(flags, tmp_path, monkeypatch):
    """A mistake of ours must stay visible."""

    def fail(config, workdir):
        raise KeyError("ours")

    flags(tiny_runs.config_for(tmp_path), str(tmp_path / "run"))
    monkeypatch.setitem(main.TASKS, "expression", fail)
    with pytest.raises(KeyError, match="ours"):
        main._main(["main"])


def test_every_task_of_the_configuration_has_its_function():
    field = dict(config_lib._walk(config_lib.FIELDS))["task"]
    assert set(main.TASKS) == set(field.expected.replace("one of ", "").split(", "))


def test_a_configuration_file_that_fails_is_named_with_its_line(command, tmp_path):
    path = tmp_path / "typo.py"
    path.write_text(
        "from epinformer_jax import config\n"
        "def get_config():\n"
        "    c = config.default()\n"
        "    c.train.epohcs = 3\n"
        "    return c\n"
    )
    assert_one_line(command("--config", path, "--workdir", tmp_path / "run"), "typo.py:4: ")
    assert not (tmp_path / "run").exists()
