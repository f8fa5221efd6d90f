"""The data room: sequences, genomes, tables, element rules, records and folds.

Imports nothing else of this project, and no JAX: everything here runs on the host in NumPy.
"""
