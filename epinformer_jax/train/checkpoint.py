"""Checkpoints that are never silently wrong: orbax storage, a sha256 for every leaf, the best and
the last two kept.

One format for everything that holds weights: a directory with `checkpoints/<step>/`, each step a
plain dictionary of arrays (`params`, `stats`, and in training `optimizer`) and a JSON record. The
record carries what a user of the model needs (`info`), where training stood (`progress`), and the
digests. A trained fold, a pre-trained encoder and a converted published model are all read by
`load_model`.

orbax 0.12 counts a NaN score as the best and can restore damaged bytes without noticing (design
section 7): scores are made finite here, and every restore is verified.
"""

import contextlib
import dataclasses
import gc
import hashlib
import json
import logging
import shutil
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging as absl_logging
from etils import epath

from epinformer_jax.model import architecture
from epinformer_jax.model.functional import Tree, Variables, shapes

FORMAT = 1
FOLDER = "checkpoints"
# orbax counts its operations process-wide: two folds that save at once would mix up its signals.
_ONE_SAVE = threading.Lock()


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What a user of a model must know besides its weights; stored as JSON in every checkpoint.

    Attributes:
      model: the network's shape (model.architecture).
      schema: feature schema (data.features), None for activity models.
      label: name of the predicted column.
      label_transform: how the label was made from a measured value, with its constants, e.g.
        {"name": "z_log10", "offset": 0.1, "mean": 0.24, "sd": 1.06}; {} when unknown.
      unknown_base: value of each channel at an unknown base.
      element_rule: which elements a gene keeps (data.elements).
      chromosomes: {"train": [...], "valid": [...], "test": [...]}; empty lists when unknown.
      fold: name of the cross-validation fold, "" when none.
      genome: name of the assembly the model was trained on, "" when unknown.
      cell: cell type the model was trained on, "" when unknown.
      promoter_bp: promoter window, bases.
      feature_quantiles: {feature name: [q05, q25, q50, q75, q95]} of the training genes' raw
        signals.
      data_fingerprint: of the training data set.
      both_strands: it was trained on sequences of either strand, and its run's report holds the
        mean of both.
      source: where the weights come from, in words.
    """

    model: architecture.ModelConfig
    schema: dict[str, Any] | None = None
    label: str = ""
    label_transform: dict[str, Any] = dataclasses.field(default_factory=dict)
    unknown_base: float = 0.25
    element_rule: dict[str, Any] = dataclasses.field(default_factory=dict)
    chromosomes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    fold: str = ""
    genome: str = ""
    cell: str = ""
    promoter_bp: int = 2000
    feature_quantiles: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    data_fingerprint: str = ""
    both_strands: bool = False
    source: str = ""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**fields, "model": architecture.to_dict(self.model)}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> "ModelInfo":
        """Inverse of `to_dict`."""
        return cls(**{**fields, "model": architecture.from_dict(fields["model"])})


class Restored(NamedTuple):
    """One verified step: the tree of NumPy arrays, and its record."""

    step: int
    tree: Tree
    info: ModelInfo
    progress: dict[str, Any]


class DamagedCheckpoint(ValueError):
    """A leaf does not have the bytes that were saved, or a step cannot be read."""


class Checkpoints:
    """The steps kept in one directory: the latest two, so that a damaged one has a predecessor, and
    the best by score.

    With `repair`, for training, a step whose score cannot be read is reported and removed.

    Raises:
      DamagedCheckpoint: a step's score cannot be read; the file is named.
    """

    def __init__(self, directory: str | Path, *, repair: bool = False):
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as managers

        self.directory = epath.Path(directory) / FOLDER
        policy = managers.AnyPreservationPolicy(
            [managers.LatestN(2), managers.BestN(get_metric_fn=_score, reverse=False, n=1)]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy, best_fn=_score, create=True, enable_async_checkpointing=True
        )
        resolved = epath.Path(self.directory).resolve()  # orbax refuses relative paths
        _check_scores(resolved, repair=repair and jax.process_count() == 1)
        self._manager = ocp.CheckpointManager(resolved, options=options)
        self._ocp = ocp

    def save(self, step: int, tree: Tree, *, info: ModelInfo, progress: dict, score: float) -> None:
        """Saves in the background. `tree` holds arrays under string keys; a NaN score counts as
        worst.

        Raises:
          ValueError: this step, or a later one, is already there.
        """
        host = jax.tree.map(np.asarray, jax.device_get(tree))
        record = {
            "format": FORMAT,
            "info": info.to_dict(),
            "progress": progress,
            "leaves": _digests(host),
        }
        record["sha256"] = _digest_of_record(record)
        args = self._ocp.args.Composite(
            state=self._ocp.args.StandardSave(host), record=self._ocp.args.JsonSave(record)
        )
        finite = float(score) if np.isfinite(score) else -1e30
        with _ONE_SAVE:
            saved = self._manager.save(step, args=args, metrics={"score": finite})
            if threading.current_thread() is not threading.main_thread():
                self._manager.wait_until_finished()
        if not saved:
            raise ValueError(
                f"{self.directory}: step {step} was not saved; steps {self.steps()} are there "
                "already"
            )

    def steps(self) -> list[int]:
        """Finished steps, ascending."""
        return sorted(self._manager.all_steps())

    def best_step(self) -> int | None:
        """The step with the highest score; the later of equal ones. None when there is no step."""
        return self._manager.best_step() if self.steps() else None

    def restore(self, step: int) -> Restored:
        """One step, every leaf verified.

        Raises:
          DamagedCheckpoint: the step cannot be read, or a leaf differs from what was saved; the
            leaf is named.
        """
        return read_step(self.directory / str(step), step)

    def restore_latest(self) -> Restored | None:
        """The newest step that is whole; damaged ones are reported, removed and passed over. None
        when there is none.
        """
        for step in reversed(self.steps()):
            try:
                return self.restore(step)
            except DamagedCheckpoint as error:
                absl_logging.warning("%s; falling back to an earlier step", error)
                self._manager.delete(step)
        return None

    def delete_after(self, step: int) -> None:
        """Removes steps later than `step`."""
        for later in [s for s in self.steps() if s > step]:
            self._manager.delete(later)

    def wait(self) -> None:
        """Blocks until everything saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes pending saves and releases the manager's threads."""
        self._manager.wait_until_finished()
        self._manager.close()


def read_step(folder, step: int) -> Restored:
    """Reads `checkpoints/<step>` and verifies it; see `Checkpoints.restore`."""
    import orbax.checkpoint as ocp

    folder = epath.Path(folder).resolve()
    reason = ""
    with _without_late_reads():
        try:
            with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
                record = reader.restore(folder / "record")
            leaves = record["leaves"]
            info = ModelInfo.from_dict(record["info"])
            target = _unflatten({path: _shape_of(leaf) for path, leaf in leaves.items()})
            with ocp.StandardCheckpointer() as reader:
                tree = reader.restore(folder / "state", target)
        except Exception as error:
            # orbax and tensorstore raise many types for damaged files; the first line says enough
            reason = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        if reason:
            raise DamagedCheckpoint(
                f"{folder}: the checkpoint cannot be read: {reason}; restore another step or copy "
                "the folder again"
            )
    if record.get("sha256", "") not in ("", _digest_of_record(record)):
        raise DamagedCheckpoint(
            f"{folder}: its record differs from what was saved; restore another step or copy the "
            f"file again"
        )
    tree = jax.tree.map(np.asarray, tree)
    found = _digests(tree)
    for path, leaf in leaves.items():
        if found.get(path) != leaf:
            raise DamagedCheckpoint(
                f"{folder}: leaf {path} differs from what was saved (sha256 expected "
                f"{leaf['sha256'][:12]}, got {found.get(path, {}).get('sha256', 'nothing')[:12]}); "
                f"restore another step or copy the file again"
            )
    return Restored(step, tree, info, record["progress"])


def save_model(directory: str | Path, variables: Variables, info: ModelInfo) -> Path:
    """Writes a finished model as a directory that `load_model` reads; atomic.

    Raises:
      ValueError: the directory exists already.
    """
    directory = Path(directory)
    if directory.exists():
        raise ValueError(f"{directory} exists already; choose another --out or remove it")
    directory.parent.mkdir(parents=True, exist_ok=True)
    staging = directory.with_name(f".{directory.name}.writing")
    if staging.exists():
        shutil.rmtree(staging)
    checkpoints = Checkpoints(staging)
    checkpoints.save(0, variables._asdict(), info=info, progress={}, score=0.0)
    checkpoints.close()
    (staging / "model.json").write_text(json.dumps(info.to_dict(), indent=1) + "\n")
    staging.rename(directory)
    return directory


def load_model(directory: str | Path, *, which: str = "best") -> tuple[Variables, ModelInfo]:
    """Weights and description from a directory with `checkpoints/`; `which` is best or latest.

    Raises:
      ValueError: there is no checkpoint, or it does not fit the model it describes.
      DamagedCheckpoint: the step does not hold what was saved.
    """
    folder = epath.Path(directory) / FOLDER
    if not folder.exists():
        raise ValueError(
            f"{directory} holds no model: there is no folder {FOLDER}/ in it; name the directory "
            "of a fold or of a "
            f"converted model"
        )
    checkpoints = Checkpoints(directory)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise ValueError(f"{folder} holds no finished checkpoint; train the model first")
        step = checkpoints.best_step() if which == "best" else steps[-1]
        restored = checkpoints.restore(step)
    finally:
        checkpoints.close()
    variables = Variables(restored.tree["params"], restored.tree["stats"])
    expected = _shapes(shapes(restored.info.model)._asdict())
    got = _shapes(variables._asdict())
    if expected != got:
        wrong = sorted(set(expected.items()) ^ set(got.items()))[0]
        raise ValueError(
            f"{folder}/{step}: weights do not fit the model they describe, first at {wrong}"
        )
    return variables, restored.info


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{"params/encoder/stem/kernel": leaf, ...} from nested dictionaries."""
    leaves = {}
    for key, value in tree.items():
        path = f"{prefix}/{key}" if prefix else str(key)
        if isinstance(value, dict):
            leaves.update(flatten(value, path))
        else:
            leaves[path] = value
    return leaves


@contextlib.contextmanager
def _without_late_reads():
    """Keeps stderr clean: where a leaf is unreadable, orbax abandons the others, which complain."""
    before = sys.unraisablehook

    def hook(unraisable):
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    except DamagedCheckpoint:
        # reads may complain from now on, so hook and filter stay
        logging.getLogger("asyncio").addFilter(_is_no_late_read)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            gc.collect()
        raise
    sys.unraisablehook = before


def _is_no_late_read(record: logging.LogRecord) -> bool:
    text = record.getMessage()
    return "never retrieved" not in text or not ("orbax" in text or "tensorstore" in text)


def _check_scores(folder: epath.Path, *, repair: bool) -> None:
    """orbax reads the scores of all steps at once, and fails without a name at a damaged one."""
    for path in folder.glob("*/metrics/metrics"):
        try:
            if np.isfinite(json.loads(path.read_text())["score"]):
                continue
        except (ValueError, KeyError, TypeError):
            pass
        step = path.parent.parent
        if not repair:
            raise DamagedCheckpoint(
                f"{path}: the score of this step cannot be read; copy the file again, or remove "
                f"{step} to use the other steps"
            )
        absl_logging.warning("%s: the score of this step cannot be read; the step is removed", path)
        step.rmtree()


def _shape_of(leaf: dict[str, Any]) -> jax.ShapeDtypeStruct:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(tuple(leaf["shape"]), np.dtype(leaf["dtype"]), sharding=device)


def _digest_of_record(record: dict[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _unflatten(leaves: dict[str, Any]) -> Tree:
    tree: Tree = {}
    for path, leaf in leaves.items():
        *folders, name = path.split("/")
        node = tree
        for folder in folders:
            node = node.setdefault(folder, {})
        node[name] = leaf
    return tree


def _digests(tree: Tree) -> dict[str, dict[str, Any]]:
    digests = {}
    for path, leaf in sorted(flatten(tree).items()):
        leaf = np.asarray(leaf)
        head = json.dumps([path, str(leaf.dtype), list(leaf.shape)]).encode()
        digest = hashlib.sha256(head + np.ascontiguousarray(leaf).tobytes()).hexdigest()
        digests[path] = {"dtype": str(leaf.dtype), "shape": list(leaf.shape), "sha256": digest}
    return digests


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    return {path: tuple(leaf.shape) for path, leaf in flatten(tree).items()}


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]
