"""Preparation of data sets, offline: raw genomics files in, TFRECORD data sets out.

`python -m data_prep` lists the commands. Each command module offers DESCRIPTION,
add_arguments(parser) and run(args) -> exit code, and a Python function that does the same.
"""
