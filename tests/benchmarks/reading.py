"""What we run to read a model: mutagenesis of a window and of a gene, removal of each element.

Each run is a call of the function behind the command, on one gene or window, its tables included.
"""

import time
from collections.abc import Callable

import numpy as np

from epinformer_jax.analysis import mutagenesis_genes, perturb, predict, saturation
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.analysis.mutagenesis_genes import Site
from tests.benchmarks import inputs, models
from tests.benchmarks.setting import Prepared, Setting

GENES_AT_LEAST, QUICK_GENES = 1800, 200  # of the pass over the genome, as whole chromosomes


def window_mutagenesis(
    setting: Setting, *, window_bp: int, kmer_table: KmerTable = "off"
) -> Prepared:
    """Every substitution of one window through the activity model."""
    model = models.activity_model(setting)
    codes = inputs.random_window(setting, window_bp)
    window = saturation.centred(codes, window_bp)
    options, one_off = _tables(setting, model, kmer_table)
    table = options["tables"].get(model.name)

    def run(index: int) -> list[float]:
        found = saturation.predict_activity(model, [window], table=table)
        return _mutants(found.changed[0], codes).tolist()

    return Prepared(run, work=1, one_off=one_off | _first(run))


def gene_mutagenesis(setting: Setting, *, elements: int, kmer_table: KmerTable = "off") -> Prepared:
    """Every substitution of a long element of a gene, scored by the expression model."""
    model = models.expression_model(setting)
    options, one_off = _tables(setting, model, kmer_table)
    gene, slot = inputs.gene_with_long_element(setting, elements)
    genes = models.gene_inputs(setting, np.array([gene]))
    codes = setting.data.sequences[gene].codes[slot]
    chosen = inputs.spread(3 * len(codes), inputs.CHECKED_MUTANTS)

    def run(index: int) -> list[float]:
        (scan,) = mutagenesis_genes.mutate_genes(
            [model], genes, [Site(0, slot)], ensemble="all", **options
        )
        return _mutants(scan.effects + scan.reference[None], codes)[chosen].tolist()

    return Prepared(run, work=1, one_off=one_off | _first(run))


def removal(
    setting: Setting, *, elements: int, genes: int = 1, kmer_table: KmerTable = "auto"
) -> Prepared:
    """Each element of some genes removed in turn, by the command's function; `on`: a table that is
    there already.
    """
    model = models.expression_model(setting)
    options, one_off = _tables(setting, model, kmer_table) if kmer_table != "auto" else ({}, {})
    chosen = inputs.genes_with(setting, elements, genes)
    given = models.gene_inputs(setting, chosen)
    checked = inputs.spread(elements + 1, inputs.CHECKED_REMOVALS)

    def run(index: int) -> list[float]:
        found = perturb.perturb_elements([model], given, ensemble="all", **options)
        first = found.iloc[:elements]
        return np.append(first["prediction_ref"].iloc[:1], first["prediction_alt"])[
            checked
        ].tolist()

    return Prepared(run, work=genes, one_off=one_off | _first(run))


def genome_pass(setting: Setting, *, kmer_table: KmerTable = "off") -> Prepared:
    """Predictions of every gene of whole chromosomes, each distinct element encoded once."""
    model = models.expression_model(setting)
    chosen = inputs.whole_chromosomes(setting, QUICK_GENES if setting.quick else GENES_AT_LEAST)
    genes = models.gene_inputs(setting, chosen)

    def run(index: int) -> list[float]:
        found = predict.predict_expression([model], genes, ensemble="all", kmer_table=kmer_table)
        return found.predictions["prediction"].iloc[: inputs.CHECKED_GENES].tolist()

    started = time.perf_counter()
    first = run(0)
    one_off = {"first_pass_with_compiling_s": time.perf_counter() - started}
    return Prepared(run, work=len(chosen), one_off=one_off, numbers=lambda: first)


JOBS = {
    "window_mutagenesis": window_mutagenesis,
    "gene_mutagenesis": gene_mutagenesis,
    "removal": removal,
    "genome_pass": genome_pass,
}


def _tables(setting: Setting, model: Model, choice: KmerTable):
    """Options of an analysis that is to use this and nothing else; and what it costs once."""
    started = time.perf_counter()
    table = models.kmer_table(setting.weights_file, model.name, choice)
    seconds = time.perf_counter() - started
    one_off = {} if table is None else {"table_s": seconds, "table_bytes": table.values.nbytes}
    return {"kmer_table": "off", "tables": {} if table is None else {model.name: table}}, one_off


def _first(run: Callable[[int], object]) -> dict[str, float]:
    """Seconds of a first run, most of it compiling."""
    started = time.perf_counter()
    run(0)
    return {"first_run_with_compiling_s": time.perf_counter() - started}


def _mutants(changed: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """[4, L] to the predictions of `inputs.mutants`, in their order."""
    return changed.T[np.array([1, 2, 4, 8])[None] != codes[:, None]]
