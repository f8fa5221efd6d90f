"""Meshes and shares of devices, the compilation cache, run directories in a bucket."""

import json
import pathlib

import jax
import numpy as np
import pandas as pd
import pytest
from etils.epath import Path as BucketPath

from epinformer_jax.data import atomic
from epinformer_jax.train import devices, rundir

COMPILES = """
import sys
from epinformer_jax.train import devices
print(devices.use_compilation_cache(sys.argv[1], least_seconds=0))
import jax, numpy as np
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
jax.jit(lambda x: x @ x + 1)(np.ones((8, 8), np.float32)).block_until_ready()
"""


def test_compiled_programs_are_kept_for_the_next_run_and_nothing_is_printed(run_python, tmp_path):
    """The user's cache folder, one folder for each kind of processor."""
    environment = {"XDG_CACHE_HOME": str(tmp_path), "JAX_COMPILATION_CACHE_DIR": ""}
    for _ in range(2):
        done = run_python("-W", "error", "-c", COMPILES, "auto", env=environment)
        assert (done.returncode, done.stderr) == (0, "")
        folder = pathlib.Path(done.stdout.strip())
        assert folder.is_relative_to(tmp_path / "epinformer_jax" / "compiled")
        files = sorted(folder.rglob("*-cache"))
        assert files, "nothing was kept"
    assert len({file.name for file in files}) == len(files)


def test_a_stated_folder_is_used_and_off_keeps_nothing(run_python, tmp_path):
    stated = run_python("-c", COMPILES, tmp_path / "mine", env={"JAX_COMPILATION_CACHE_DIR": ""})
    assert stated.stdout.strip() == str(tmp_path / "mine") and any((tmp_path / "mine").iterdir())
    environment = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "theirs")}
    theirs = run_python("-c", COMPILES, "auto", env=environment)
    assert theirs.stdout.strip() == str(tmp_path / "theirs")
    off = run_python("-c", COMPILES, "off", env={"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "no")})
    assert off.stdout.strip() == "None" and not (tmp_path / "no").exists()


def test_a_folder_that_cannot_be_made_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    updates = []
    monkeypatch.setattr(jax.config, "update", lambda *values: updates.append(values))
    assert devices.use_compilation_cache(str(tmp_path / "file" / "below")) is None
    assert not updates


SHARES = """
import jax
from epinformer_jax.train import devices
def ids(*arguments, **options):
    return [[d.id for d in mesh.devices.flat] for mesh in devices.places(*arguments, **options)]
assert ids(1) == [[0, 1, 2, 3]]
assert ids(2) == [[0, 1], [2, 3]]
assert ids(3) == [[0], [1], [2]]
assert ids(12) == [[0], [1], [2], [3]]
assert ids(12, parallel=2) == [[0, 1], [2, 3]]
assert ids(12, parallel=1) == [[0, 1, 2, 3]]
"""


def test_devices_are_shared_out_evenly(run_python):
    done = run_python("-c", SHARES, devices=4)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(jax.device_count() > 1, reason="for a machine with a single device")
def test_as_many_jobs_share_one_cpu_as_are_asked_for():
    assert (
        len(devices.places(1)) == len(devices.places(5)) == len(devices.places(5, parallel=1)) == 1
    )
    assert devices.places(5, parallel=3) == [devices.all_devices()] * 3
    assert len(devices.places(2, parallel=3)) == 2


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """gs://... as a local folder, for what atomic writes."""

    def path(name):
        return pathlib.Path(str(name).replace("gs://", f"{tmp_path}/"))

    monkeypatch.setattr(atomic.epath, "Path", path)
    return tmp_path


def test_tables_and_json_reach_a_bucket_whole(bucket):
    (bucket / "runs").mkdir()
    rundir.write_json(BucketPath("gs://runs/metrics.json"), {"r": np.nan})
    rundir.write_tsv(BucketPath("gs://runs/table.tsv"), pd.DataFrame({"x": [1.5]}))
    assert json.loads((bucket / "runs" / "metrics.json").read_text()) == {"r": None}
    assert (bucket / "runs" / "table.tsv").read_text() == "x\n1.5\n"
    with pytest.raises(RuntimeError), atomic.atomic_file("gs://runs/broken") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert sorted(p.name for p in (bucket / "runs").iterdir()) == ["metrics.json", "table.tsv"]


def test_a_bucket_is_told_from_a_folder(tmp_path):
    assert rundir.is_remote("gs://bucket/run") and not rundir.is_remote(tmp_path)
    assert str(rundir.folder("gs://bucket/run")) == "gs://bucket/run"
    assert rundir.folder(tmp_path) == tmp_path
