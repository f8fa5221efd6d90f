"""python -m epinformer_jax.main --config FILE --workdir RUN [--config.key=value ...]

Trains the folds of a configuration and writes RUN/report.html; with --profile DIR measures its
training steps instead. No logic here: flags, one table, one line for each error.
"""

import json
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from epinformer_jax import launch, messages

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; see configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a killed run goes on where it was.")
_PROFILE = flags.DEFINE_string(
    "profile", None, "Directory for a trace and a table of the training step; trains nothing."
)
_PROFILE_STEPS = flags.DEFINE_integer(
    "profile_steps", 20, "Steps that --profile measures, after those that compile.", lower_bound=1
)
_FIELDS = flags.DEFINE_bool(
    "fields", False, "Print every configuration field with its default and exit."
)


def _train(config, workdir):
    from epinformer_jax.train import crossval

    return crossval.run(config, workdir)


TASKS = {"expression": _train, "activity": _train}


def main(argv: list[str]) -> None:
    """Checks the configuration before anything heavy is imported, runs it, writes the report."""
    from epinformer_jax import config as config_lib

    if _FIELDS.value:
        print(config_lib.describe())
        return
    if len(argv) > 1:
        raise ValueError(
            f"unexpected argument {argv[1]!r}; options are --config, --workdir and "
            "--config.key=value"
        )
    if _CONFIG.value is None or not (_WORKDIR.value or _PROFILE.value):
        raise ValueError(
            "give --config FILE and --workdir DIRECTORY; --helpshort lists all options"
        )
    config = _CONFIG.value
    config_lib.check(config)
    _prepare(config)
    if _PROFILE.value:
        from epinformer_jax.train import profile

        print(profile.run(config, _PROFILE.value, steps=_PROFILE_STEPS.value))
        return
    _report(TASKS[config.task](config, _WORKDIR.value))


def _prepare(config) -> None:
    """What must be settled before JAX is asked for devices."""
    from epinformer_jax.train import devices, distributed

    distributed.start(config.distributed)
    devices.use_compilation_cache(config.compilation_cache)


def _report(workdir) -> None:
    from epinformer_jax.analysis import report, summary
    from epinformer_jax.train import distributed, rundir

    if not distributed.is_lead():
        return
    metrics = rundir.folder(workdir) / "metrics.json"
    print(summary.result_table(json.loads(metrics.read_text())))
    print(f"metrics: {metrics}")
    if rundir.is_remote(workdir):
        print(f"report:  copy {workdir} to a local folder, then `epinformer report` that folder")
        return
    print(f"report:  {report.write_report(workdir)}")


def _main(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(messages.is_ours_or_warns)
    try:
        main(argv)
    except (ValueError, OSError) as error:
        _stop(error)
    except Exception as error:
        from epinformer_jax.train import distributed  # heavy, and loaded already where it matters

        if not isinstance(error, distributed.Preempted):
            raise
        print(f"stopped: {error}", file=sys.stderr)
        sys.exit(143)  # 128 + SIGTERM
    except KeyboardInterrupt:
        print("error: interrupted; the same command goes on from the last epoch", file=sys.stderr)
        sys.exit(130)


def _parse(argv: list[str]) -> list[str]:
    """Parses flags; what the configuration file or a --config.key says wrongly is found first, to
    say it clearly.
    """
    from epinformer_jax import config as config_lib

    try:
        for argument, following in zip(argv[1:], [*argv[2:], ""], strict=False):
            name, _, value = argument.lstrip("-").partition("=")
            if argument.startswith("-") and name == "config" and (value or following):
                config_lib.load_file(value or following)
            elif argument.startswith("-") and name.startswith("config."):
                config_lib.check_name(name.removeprefix("config."))
        return flags.FLAGS(argv)
    except (ValueError, flags.Error) as error:
        _stop(error)


def _stop(error: Exception) -> NoReturn:
    """One line on stderr and exit code 2."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(2)


def run() -> None:
    """Entry point: wrong flags, too, end in one line."""
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    launch.with_huge_pages()
    run()
