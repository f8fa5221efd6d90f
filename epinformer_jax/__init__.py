"""EPInformer for JAX: gene expression from promoter and enhancer sequence.

    model = epinformer_jax.load_model("runs/k562")
    table = model.predict("genes.tsv", "links.tsv", fasta="genome.fa")

Importing the package is cheap: NumPy, pandas, JAX and Flax load only with the rooms that need them.
"""

__version__ = "0.1.0"


def load_model(directory, kind=None):
    """A trained or converted model, or the folds of a run, ready to use: `analysis.api.Model`.

    With `kind` "activity" a run gives the encoders that it has pre-trained.

    Raises:
      ValueError: the directory holds no model, or models that do not belong together.
    """
    from epinformer_jax.analysis import api

    return api.load_model(directory, kind)
