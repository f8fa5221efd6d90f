"""`epinformer benchmark NAME`: predictions against measurements, each with what must be beaten."""

import argparse

from epinformer_jax.analysis import benchmark_expression, benchmark_links, benchmark_satmut

# Name -> module with DESCRIPTION, add_arguments and run.
BENCHMARKS = {
    "expression": benchmark_expression,
    "links": benchmark_links,
    "satmut": benchmark_satmut,
}
DESCRIPTION = """\
Measure predictions, with baselines, intervals and controls beside them.

Rows that a model was trained on are refused. For example:
  epinformer benchmark expression --genes genes.tsv --links links.tsv --out DIR
  epinformer benchmark links --truth truth.tsv --scores links.tsv --out DIR
  epinformer benchmark satmut --model RUN_DIR --satmut elements.tsv.gz --out DIR"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One subcommand a benchmark."""
    chosen = parser.add_subparsers(dest="benchmark", metavar="NAME", required=True)
    for name, module in BENCHMARKS.items():
        own = chosen.add_parser(
            name,
            help=module.__doc__.splitlines()[0],
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(own)


def run(args: argparse.Namespace) -> int:
    """Runs the benchmark that was named; returns the exit code."""
    return BENCHMARKS[args.benchmark].run(args)
