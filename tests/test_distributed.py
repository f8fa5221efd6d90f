"""Runs of several processes equal those of one; start-up from the environment; SIGTERM."""

import os
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import tiny_models
import tiny_runs
import train_together

from epinformer_jax.train import crossval, distributed
from epinformer_jax.train.checkpoint import Checkpoints, load_model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(repository, cache, *arguments, count=2, devices=1):
    """Exit codes and outputs of `count` processes that join each other on the loopback address."""
    paths = f"{repository}{os.pathsep}{repository / 'tests'}"
    flags = os.environ.get("XLA_FLAGS", "").split()
    environment = {
        **os.environ,
        "XLA_FLAGS": " ".join(flag for flag in flags if "device_count" not in flag),
        "PYTHONPATH": paths,
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": str(count),
    }
    started = [
        subprocess.Popen(
            [sys.executable, "tests/train_together.py", *map(str, arguments)],
            cwd=repository,
            env={**environment, "JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    try:
        outputs = [process.communicate(timeout=280) for process in started]
    finally:
        for process in started:
            process.kill()
    codes = [process.returncode for process in started]
    return codes, ["".join(output) for output in outputs]


@pytest.mark.skipif(os.environ.get("JAX_PLATFORMS") != "cpu", reason="compares CPU with CPU")
@pytest.mark.timeout(600)
def test_two_processes_stopped_and_started_again_equal_one(repository, tmp_path):
    """Two processes of one device each; SIGTERM to one of them stops both after the same step,
    and the same command goes on. Sums are added in another order, hence 1e-5.
    """
    data = tiny_runs.write_data(tmp_path)
    run = tmp_path / "together"
    cache = tmp_path / "compiled"
    codes, outputs = together(repository, cache, data, run, 2)
    assert codes == [143, 143], outputs
    step = int(re.search(r"at step (\d+); the same command", outputs[0]).group(1))
    checkpoints = Checkpoints(run / "fold_1")
    stopped = checkpoints.restore(step)
    checkpoints.close()
    assert 0 < step < 8 and stopped.progress["step"] == step
    codes, outputs = together(repository, cache, data, run)
    assert codes == [0, 0], outputs
    with tiny_models.quick_compilation():
        alone = crossval.run(train_together.config_for(data), tmp_path / "alone")
    for name, key in (("predictions.tsv", "gene_id"), ("fold_1/history.tsv", "epoch")):
        got, expected = (pd.read_csv(folder / name, sep="\t") for folder in (run, alone))
        assert got[key].is_unique and got[key].tolist() == expected[key].tolist()
        for column in got.select_dtypes("number").columns.difference(["seconds"]):
            np.testing.assert_allclose(got[column], expected[column], rtol=0, atol=1e-5)
    weights = [load_model(folder / "fold_1")[0] for folder in (run, alone)]
    tiny_models.assert_trees_close(*weights, atol=1e-4)


NODE = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({**NODE, "SLURM_NTASKS": "1"}, None),
        ({**NODE, "SLURM_NTASKS": "2"}, distributed.Processes()),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),  # sbatch without srun
        ({"OMPI_COMM_WORLD_SIZE": "4"}, distributed.Processes()),
        (
            {
                "JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234",
                "JAX_NUM_PROCESSES": "4",
                "JAX_PROCESS_ID": "0",
            },
            distributed.Processes("10.0.0.1:1234", 4, 0),
        ),
    ],
)
def test_the_environment_says_who_takes_part(environment, expected):
    assert distributed.processes(environment) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_PROCESS_ID is not: set all or none"),
        ({"JAX_PROCESS_ID": "first"}, "JAX_PROCESS_ID='first'"),
        ({"JAX_COORDINATOR_ADDRESS": "host"}, "host:port"),
    ],
)
def test_an_incomplete_environment_is_refused(changes, message):
    environment = {
        "JAX_COORDINATOR_ADDRESS": "host:1",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": "0",
    }
    with pytest.raises(ValueError, match=message):
        distributed.processes({**environment, **changes})


def test_a_run_that_must_be_distributed_and_is_not_says_how(run_python):
    """In a process of its own: once joined, a process stays so."""
    code = (
        "from epinformer_jax.train import distributed\n"
        "distributed.start('off')\n"
        "try:\n    distributed.start('on')\n"
        "except ValueError as error:\n    print(error)\n"
    )
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    done = run_python("-c", code, env=dict.fromkeys(names, ""))
    assert "set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES" in done.stdout, done.stderr


def test_sigterm_asks_to_stop_inside_the_block_only():
    before = signal.getsignal(signal.SIGTERM)
    with distributed.stops_on_sigterm():
        assert not distributed.must_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert distributed.must_stop()
    assert signal.getsignal(signal.SIGTERM) is before
    with distributed.stops_on_sigterm():
        assert not distributed.must_stop(), "the next run would stop at once"


def test_one_process_is_the_lead_and_agrees_with_itself():
    assert distributed.is_lead()
    assert distributed.all_agree(True) and not distributed.all_agree(False)
