"""Commands of data_prep, run in this process."""

import argparse


def run_command(module, *arguments):
    """Parses and runs a command of data_prep in this process."""
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return module.run(parser.parse_args([str(argument) for argument in arguments]))
