"""What we run to read a model: mutagenesis of a window and of a gene, removal of each element.

Each run is a call of the function behind the command, on one gene or window, its tables included.
"""

import time
from collections.abc import Callable

import jax
import numpy as np

from epinformer_jax.analysis import distinct, mutagenesis_genes, perturb, predict, saturation, slots
from epinformer_jax.analysis.mutagenesis_genes import Site
from tests.benchmarks import inputs, models
from tests.benchmarks.setting import Prepared, Setting

GENES_AT_LEAST, QUICK_GENES = 1800, 200  # of the pass over the genome, as whole chromosomes


def window_mutagenesis(setting: Setting, *, window_bp: int, kmer_table: bool = False) -> Prepared:
    """Every substitution of one window through the activity model."""
    model = models.activity_model(setting)
    codes = inputs.random_window(setting, window_bp)
    window = saturation.centred(codes, window_bp)
    table, one_off = _table(setting, "activity", wanted=kmer_table)

    def run(index: int) -> list[float]:
        found = saturation.predict_activity(model, [window], table=table)
        return _mutants(found.changed[0], codes).tolist()

    return Prepared(run, work=1, one_off=one_off | _first(run))


def gene_mutagenesis(setting: Setting, *, elements: int, kmer_table: bool = False) -> Prepared:
    """Every substitution of a gene's promoter, scored by the expression model."""
    table, one_off = _table(setting, "expression", wanted=kmer_table)
    model = models.expression_model(setting)
    gene = inputs.gene_with(setting, elements)
    genes = models.gene_inputs(setting, np.array([gene]))
    codes = setting.data.sequences[gene].codes[0]
    chosen = inputs.spread(3 * len(codes), inputs.CHECKED_MUTANTS)

    def run(index: int) -> list[float]:
        (scan,) = mutagenesis_genes.mutate_genes(
            [model], genes, [Site(0, 0)], ensemble="all", tables={model.name: table}
        )
        return _mutants(scan.effects + scan.reference[None], codes)[chosen].tolist()

    return Prepared(run, work=1, one_off=one_off | _first(run))


def removal(setting: Setting, *, elements: int, way: str = "perturb") -> Prepared:
    """Each element of a gene removed in turn.

    `perturb`: the command's function. `embedded`: encoder, then all removals, without its tables.
    `kmer_table`: likewise, the encoder's first block from its table.
    """
    model = models.expression_model(setting)
    gene = inputs.gene_with(setting, elements)
    genes = models.gene_inputs(setting, np.array([gene]))
    checked = inputs.spread(elements + 1, inputs.CHECKED_REMOVALS)
    if way == "perturb":

        def call() -> np.ndarray:
            found = perturb.perturb_elements([model], genes, ensemble="all")
            return np.append(found["prediction_ref"].iloc[:1], found["prediction_alt"])

        one_off = {}
    else:
        table, one_off = _table(setting, "expression", wanted=way == "kmer_table")
        call = _embedded_removal(setting, model, gene, table)

    def run(index: int) -> list[float]:
        return call()[checked].tolist()

    return Prepared(run, work=1, one_off=one_off | _first(run))


def _embedded_removal(setting: Setting, model, gene: int, table) -> Callable[[], np.ndarray]:
    config, variables = model.info.model, jax.device_put(model.variables)
    codes = setting.data.sequences[gene].codes
    count = next(n for n in (*slots.BUCKETS, config.slots - 1) if n >= len(codes) - 1)
    count = 1 + min(count, config.slots - 1)
    both = slots.compiled(_with_removals, config)

    def call() -> np.ndarray:
        embedded = distinct.embed(model, codes, table=table, positions=predict.BASES_PER_GENE * 8)
        own = slots.Embedded(embedded, np.zeros_like(embedded))
        laid = slots.slots_of(setting.data, np.array([gene]), [own], 1, count)
        before, after = jax.device_get(both(variables, laid))
        return np.append(before, after[0, : len(codes) - 1])

    return call


def _with_removals(config, variables, laid: slots.Slots):
    before, _ = slots.reference(config, variables, laid)
    return before, slots.removals(config, variables, laid)


def genome_pass(setting: Setting, *, kmer_table: str = "off") -> Prepared:
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


def _table(setting: Setting, kind: str, *, wanted: bool):
    if not wanted:
        return None, {}
    started = time.perf_counter()
    table = models.kmer_table(setting.weights_file, kind)
    seconds = time.perf_counter() - started
    return table, {"table_s": seconds, "table_bytes": float(table.values.nbytes)}


def _first(run: Callable[[int], object]) -> dict[str, float]:
    """Seconds of a first run, most of it compiling."""
    started = time.perf_counter()
    run(0)
    return {"first_run_with_compiling_s": time.perf_counter() - started}


def _mutants(changed: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """[4, L] to the predictions of `inputs.mutants`, in their order."""
    letters = np.array([1, 2, 4, 8])
    return np.concatenate(
        [column[letters != code] for column, code in zip(changed.T, codes, strict=True)]
    )
