"""python -m epinformer_jax.main --config FILE --workdir RUN [--config.key=value ...]

Trains the folds of a configuration and writes RUN/report.html. No logic here: flags, one table, one
line for each error.
"""

import json
import os
import sys
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from epinformer_jax import messages

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file; see configs/.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a killed run goes on where it was.")
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
    if _CONFIG.value is None or not _WORKDIR.value:
        raise ValueError(
            "give --config FILE and --workdir DIRECTORY; --helpshort lists all options"
        )
    config_lib.check(_CONFIG.value)
    workdir = TASKS[_CONFIG.value.task](_CONFIG.value, _WORKDIR.value)
    from epinformer_jax.analysis import report, summary

    metrics = os.path.join(workdir, "metrics.json")
    with open(metrics, encoding="utf-8") as file:
        print(summary.result_table(json.load(file)))
    print(f"metrics: {metrics}")
    print(f"report:  {report.write_report(workdir)}")


def _main(argv: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(messages.is_ours_or_warns)
    try:
        main(argv)
    except (ValueError, OSError) as error:
        _stop(error)
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
    run()
