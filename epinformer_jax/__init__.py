"""EPInformer for JAX: gene expression from promoter and enhancer sequence.

Importing the package is cheap: NumPy, pandas, JAX and Flax load only with the rooms that need them.
"""

__version__ = "0.1.0"
