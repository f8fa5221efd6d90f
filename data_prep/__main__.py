"""`python -m data_prep COMMAND`: finds the command's module, parses its arguments, runs it.

An expected failure (bad input, unreadable file) is one line on stderr and exit code 2.
"""

import os
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from epinformer_jax import messages


def _simulate() -> ModuleType:
    """make up a genome with genes, elements and signals, in the file formats of real data"""
    from data_prep import simulate

    return simulate


def _candidates() -> ModuleType:
    """choose candidate elements from accessibility peaks"""
    from data_prep import candidates

    return candidates


def _signals() -> ModuleType:
    """count reads or sum tracks over regions: DNase, H3K27ac, activity"""
    from data_prep import signals

    return signals


def _contact() -> ModuleType:
    """export normalised contacts of .hic, .cool or bedpe files"""
    from data_prep import contact

    return contact


def _links() -> ModuleType:
    """pair genes with elements: distance, activity, contact, ABC score"""
    from data_prep import links

    return links


def _genes() -> ModuleType:
    """make genes.tsv: mRNA features, promoter activity, expression labels"""
    from data_prep import genes

    return genes


def _windows() -> ModuleType:
    """make 256 bp windows with activity for the activity encoder"""
    from data_prep import windows

    return windows


def _build() -> ModuleType:
    """write genes and windows as TFDS directories of TFRECORD files"""
    from data_prep import builder

    return builder


def _check() -> ModuleType:
    """prove that a built dataset is undamaged and agrees with its FASTA"""
    from data_prep import check

    return check


def _mpra() -> ModuleType:
    """turn reporter-assay sequences into windows, twins kept in one part"""
    from data_prep import mpra

    return mpra


def _sequences() -> ModuleType:
    """turn sequences with measured signals into windows, by chromosome"""
    from data_prep import sequences

    return sequences


def _run() -> ModuleType:
    """prepare every cell type of samples.tsv by one config, from raw files to TFRECORDs"""
    from data_prep import pipeline

    return pipeline


def _download() -> ModuleType:
    """fetch the public files behind the published models, verified and resumable"""
    from data_prep import download

    return download


def _folds() -> ModuleType:
    """make balanced whole-chromosome folds for any genome"""
    from data_prep import make_folds

    return make_folds


def _import() -> ModuleType:
    """turn the original's tables and HDF5 files into genes.tsv, links.tsv and records"""
    from data_prep import import_published

    return import_published


# Command -> function that imports its module; the function's docstring is the line in the overview.
COMMANDS: dict[str, Callable[[], ModuleType]] = {
    "simulate": _simulate,
    "candidates": _candidates,
    "signals": _signals,
    "contact": _contact,
    "links": _links,
    "genes": _genes,
    "windows": _windows,
    "build": _build,
    "check": _check,
    "mpra": _mpra,
    "sequences": _sequences,
    "run": _run,
    "download": _download,
    "folds": _folds,
    "import": _import,
}
PROGRAM = "python -m data_prep"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else 2
    name, *rest = arguments
    if name not in COMMANDS:
        print(f"error: unknown command {name!r}; known: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = COMMANDS[name]()
    parser = messages.parser(f"{PROGRAM} {name}", module.DESCRIPTION)
    module.add_arguments(parser)
    args = parser.parse_args(rest)
    try:
        code = module.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read the output (`head`, say) has seen enough; nothing is left to be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {load.__doc__}" for name, load in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [options]",
            "",
            "Prepares data sets for epinformer_jax.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help lists a command's options.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
