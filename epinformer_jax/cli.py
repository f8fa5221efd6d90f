"""`epinformer COMMAND`: finds the command's module, parses its arguments, runs it.

An expected failure (bad input, unreadable file, no such model) is one line on stderr, exit code 2.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from epinformer_jax import launch, messages


def _convert() -> ModuleType:
    """turn a published PyTorch checkpoint into a model directory"""
    from epinformer_jax import convert

    return convert


def _predict() -> ModuleType:
    """predict expression of genes, and the attention to their elements"""
    from epinformer_jax.analysis import predict

    return predict


def _activity() -> ModuleType:
    """predict the activity of sequences"""
    from epinformer_jax.analysis import activity

    return activity


def _perturb() -> ModuleType:
    """predict what removing or changing each element does to its gene"""
    from epinformer_jax.analysis import perturb

    return perturb


def _links() -> ModuleType:
    """score every gene and element: attention, ABC, gradient, removal"""
    from epinformer_jax.analysis import links

    return links


def _locus() -> ModuleType:
    """draw a gene with its elements, signals, scores and measured effects"""
    from epinformer_jax.analysis import locus

    return locus


def _attribution() -> ModuleType:
    """what each base contributes to a prediction"""
    from epinformer_jax.analysis import attribution

    return attribution


def _variants() -> ModuleType:
    """what variants do to the activity of elements and the expression of genes"""
    from epinformer_jax.analysis import variants

    return variants


def _motifs() -> ModuleType:
    """find the motifs that attributions are made of"""
    from epinformer_jax.analysis import motifs

    return motifs


def _mutagenesis() -> ModuleType:
    """predict what every substitution of every base does"""
    from epinformer_jax.analysis import mutagenesis

    return mutagenesis


def _benchmark() -> ModuleType:
    """measure predictions, with baselines and intervals beside them"""
    from epinformer_jax.analysis import benchmark

    return benchmark


def _report() -> ModuleType:
    """write the page about a training run"""
    from epinformer_jax.analysis import report

    return report


# Command -> function that imports its module; the function's docstring is the line in the overview.
COMMANDS: dict[str, Callable[[], ModuleType]] = {
    "convert": _convert,
    "predict": _predict,
    "activity": _activity,
    "perturb": _perturb,
    "links": _links,
    "locus": _locus,
    "attribution": _attribution,
    "variants": _variants,
    "motifs": _motifs,
    "mutagenesis": _mutagenesis,
    "benchmark": _benchmark,
    "report": _report,
}
PROGRAM = "epinformer"
KEPT_FROM_S = 0.2  # programs that compile faster are made anew
# Options that name a file or folder to read, whatever the command.
OUTPUTS = "out attention bigwig bedgraph plot out_vcf make_background"
INPUTS = "model fasta genes links contigs dataset windows vcf background effects swap truth scores"


def main(argv: Sequence[str] | None = None, *, keep_programs: bool = False) -> int:
    """Runs one command; returns the exit code. `keep_programs`: compiled programs of commands that
    take a model are kept in the user's cache folder, for the next call.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    with messages.on_stderr():
        try:
            module = COMMANDS[name]()
            parser = messages.parser(f"{PROGRAM} {name}", module.DESCRIPTION)
            module.add_arguments(parser)
            args = parser.parse_args(rest)
            _check_paths(args)
            if keep_programs and getattr(args, "model", None) is not None:
                from epinformer_jax.train import devices

                devices.use_compilation_cache("auto", least_seconds=KEPT_FROM_S)
            return module.run(args)
        except (ValueError, OSError) as error:
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("error: interrupted", file=sys.stderr)
            return 130


def _check_paths(args: argparse.Namespace) -> None:
    """Refuses inputs that are not there, and outputs whose folder is not, before models are loaded
    and the work is done.

    Raises:
      ValueError: one is not there.
    """
    for name in (*INPUTS.split(), *OUTPUTS.split()):
        given = getattr(args, name, None)
        option = f"--{name.replace('_', '-')}"
        for path in given if isinstance(given, list) else [given]:
            if not isinstance(path, Path):
                continue
            if name in INPUTS.split() and not path.exists():
                raise ValueError(f"{path}: no such file or folder ({option})")
            if name in OUTPUTS.split() and path.suffix and not path.parent.is_dir():
                raise ValueError(f"{path}: there is no folder {path.parent} to write to ({option})")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {load.__doc__}" for name, load in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            "Uses trained and converted models; `python -m epinformer_jax.main` trains them.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help lists a command's options.",
        ]
    )


def program() -> int:
    """Entry point of `epinformer`."""
    launch.with_huge_pages()
    return main(keep_programs=True)


if __name__ == "__main__":
    sys.exit(program())
