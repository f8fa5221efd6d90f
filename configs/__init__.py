"""Configurations: each chooses values of epinformer_jax.config's fields and computes nothing."""
