"""The benchmark's networks, loaded and on the device, and genes as the analyses take them."""

import functools

import jax
import numpy as np
import pandas as pd

from epinformer_jax.analysis import kmer_tables
from epinformer_jax.analysis.ensembles import Model
from epinformer_jax.analysis.inputs import GeneInputs
from epinformer_jax.analysis.kmer_tables import KmerTable
from epinformer_jax.model import kmers
from epinformer_jax.train.checkpoint import ModelInfo
from tests.benchmarks import networks, occupancy
from tests.benchmarks.setting import SLOTS, Setting


def expression_model(setting: Setting) -> Model:
    """The expression network."""
    network = networks.read(setting.weights_file, "expression")
    info = ModelInfo(
        network.config,
        schema=occupancy.schema().to_dict(),
        label="rna",
        unknown_base=occupancy.schema().unknown_base,
        element_rule={"max_elements": SLOTS - 1},
        source=network.source,
    )
    return Model("expression", jax.device_put(network.variables()), info)


def activity_model(setting: Setting) -> Model:
    """The activity network."""
    network = networks.read(setting.weights_file, "activity")
    info = ModelInfo(network.config, label="log2_activity", source=network.source)
    return Model("activity", jax.device_put(network.variables()), info)


def gene_inputs(setting: Setting, genes: np.ndarray) -> GeneInputs:
    """Some genes, by their place in the set."""
    examples = [setting.data.examples[gene] for gene in genes]
    dropped = pd.DataFrame(columns=["gene_id", "chrom", "start", "end", "reason"])
    carried = pd.DataFrame(index=pd.Index([e.gene_id for e in examples], name="gene_id"))
    return GeneInputs(examples, occupancy.SIGNALS, occupancy.GENE_SIGNALS, dropped, carried)


@functools.lru_cache(maxsize=1)
def kmer_table(weights_file, kind: str, choice: KmerTable) -> kmers.Table | kmers.Taps | None:
    """What answers for one network's first block, ready; the last one is kept, 3 GB."""
    network = networks.read(weights_file, kind)
    model = Model(kind, network.variables(), ModelInfo(network.config, label=kind))
    return jax.block_until_ready(kmer_tables.choose(model, 0, choice))
