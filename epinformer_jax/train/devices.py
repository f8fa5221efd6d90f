"""Where arrays live: meshes of devices, batches dealt over them, prefetch, the compilation cache.

A mesh has one axis, `data`. Rows or tracks of a batch are dealt over it, everything else is on each
device, so a result does not depend on the number of devices (beyond rounding). A mesh may span
processes: each process then hands over its own rows of the same global batch.
"""

import collections
import functools
import hashlib
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from epinformer_jax.data.batches import Batch

AXIS = "data"
DEALT = ("rows", "tracks", "towers")  # parts of a batch
AHEAD = 2  # batches on their way to the devices while a step runs
CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"


@functools.lru_cache(maxsize=1)
def all_devices() -> Mesh:
    """All devices of all processes along one axis, those of a process together."""
    return mesh_of(jax.devices())


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """These devices along one axis."""
    kinds = (jax.sharding.AxisType.Auto,)
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return jax.make_mesh((len(ordered),), (AXIS,), axis_types=kinds, devices=ordered)


def places(jobs: int, *, parallel: int = 0) -> list[Mesh]:
    """Meshes for `jobs` that run side by side: equal shares of the devices, as many as are of use.

    `parallel` is the most that may run at once, 0 for as many as there are devices. Jobs may share
    a single CPU, where that is asked for: what one leaves idle of its cores another uses. With one
    place it has all devices; with several processes there is one, since every process must do the
    same.
    """
    devices = jax.devices()
    if len(devices) == 1 and devices[0].platform == "cpu":
        return [all_devices()] * max(min(jobs, parallel), 1)
    count = min(jobs, parallel or len(devices), len(devices))
    if count <= 1 or jax.process_count() > 1:
        return [all_devices()]
    share = len(devices) // count
    return [mesh_of(devices[i * share : (i + 1) * share]) for i in range(count)]


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def put_replicated(tree: Any, mesh: Mesh | None = None) -> Any:
    """Copies a tree to every device of the mesh (default: all). Copies, since a donated alias would
    delete the original.
    """
    sharding = replicated(mesh or all_devices())
    if sharding.is_fully_addressable:
        return jax.tree.map(lambda leaf: jax.device_put(jnp.array(leaf), sharding), tree)
    return jax.tree.map(lambda leaf: _put(np.array(leaf), sharding), tree)


def put_batch(batch: Batch, mesh: Mesh | None = None) -> Batch:
    """Deals rows or tracks evenly over the devices of the mesh (default: all); what belongs to
    sequences and genes is on every device.
    """
    mesh = mesh or all_devices()
    whole, dealt = replicated(mesh), NamedSharding(mesh, PartitionSpec(AXIS))

    def sharding_of(part: str, leaf) -> NamedSharding:
        return dealt if part in DEALT and leaf.shape[0] % mesh.size == 0 else whole

    shardings = {
        part: jax.tree.map(functools.partial(sharding_of, part), leaves)
        for part, leaves in batch.items()
    }
    if whole.is_fully_addressable:  # all leaves at once: one by one takes longer
        return jax.device_put(batch, shardings)
    return jax.tree.map(_put, batch, shardings)


def prefetched(batches: Iterable[Batch], mesh: Mesh | None = None) -> Iterator[Batch]:
    """The batches on the devices, AHEAD of them under way before the first is asked for.

    Copies to a device run beside its computations, so a step finds its batch there.
    """
    waiting: collections.deque[Batch] = collections.deque()
    for batch in batches:
        waiting.append(put_batch(batch, mesh))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting


def waits_each_step(mesh: Mesh) -> bool:
    """Whether the host must wait for each step: many unawaited collective steps abort the process
    on CPU.
    """
    return mesh.size > 1 and mesh.devices.flat[0].platform == "cpu"


def use_compilation_cache(setting: str, *, least_seconds: float = 1.0) -> str | None:
    """Keeps compiled programs on disk from run to run; returns the folder, None if there is none.

    `setting`: `off`, a folder, or `auto`: $JAX_COMPILATION_CACHE_DIR, or the user's cache folder
    if that can be written. Programs that compile in less than `least_seconds` are not kept.
    """
    if setting == "off":
        jax.config.update("jax_enable_compilation_cache", False)
        return None
    least = "jax_persistent_cache_min_compile_time_secs"
    if setting == "auto" and os.environ.get(CACHE_VARIABLE):
        jax.config.update(least, least_seconds)
        return os.environ[CACHE_VARIABLE]  # jax has read it
    folder = Path(setting).expanduser() if setting != "auto" else _user_cache() / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        writable = False
    if not writable:
        logging.info("compiled programs are not kept: %s cannot be written", folder)
        return None
    jax.config.update(least, least_seconds)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return str(folder)


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "epinformer_jax" / "compiled"


def _machine() -> str:
    """A folder for machines with the same processor: programs for another one may not run here."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:8]}"


def _put(leaf, sharding: NamedSharding) -> jax.Array:
    """Of several processes each hands over what its own devices hold of the same global array."""
    leaf = np.asarray(leaf)
    if sharding.is_fully_replicated:
        own = leaf
    else:
        slices = [
            index[0] for index in sharding.addressable_devices_indices_map(leaf.shape).values()
        ]
        own = leaf[min(s.start or 0 for s in slices) : max(s.stop or len(leaf) for s in slices)]
    return jax.make_array_from_process_local_data(sharding, own, leaf.shape)
