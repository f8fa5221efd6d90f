"""python -m epinformer_jax.main --config configs/expression.py --workdir runs/k562 [--config.key=value ...]

Trains the folds of a configuration and writes RUN/report.html. No logic here: flags, one table, one line for each error.
"""

import json
import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from epinformer_jax import messages

_CONFIG = config_flags.DEFINE_config_file("config", None, "Configuration file; see configs/.", lock_config=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run directory; a killed run goes on where it was.")
_FIELDS = flags.DEFINE_bool("fields", False, "Print every configuration field with its default and exit.")


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
        raise ValueError(f"unexpected argument {argv[1]!r}; options are --config, --workdir and --config.key=value")
    if _CONFIG.value is None or not _WORKDIR.value:
        raise ValueError("give --config FILE and --workdir DIRECTORY; --helpshort lists all options")
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
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def run() -> None:
    """Entry point: wrong flags, too, end in one line."""
    try:
        app.run(_main)
    except (AttributeError, KeyError, TypeError) as error:
        # ml_collections reports an unknown field or a wrong type while flags are parsed
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    run()
