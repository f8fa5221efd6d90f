"""Preparation configs: each chooses fields of data_prep's `run` command and computes nothing."""
