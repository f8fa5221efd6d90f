"""The same weights for both sides: the published ones, or fresh ones where they are not at hand.

    python -m tests.benchmarks.networks --data ../shared/data --out weights.npz

One file of tensors under their published names serves PyTorch as a state, and us through the
converter's table of names.
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import numpy as np

from epinformer_jax import torch_names, torch_zip
from epinformer_jax.model.architecture import ActivityConfig, ExpressionConfig, ModelConfig
from epinformer_jax.model.functional import Variables

FILES = {
    "expression": "expression_K562_PE_Activity_HiC_RNA/fold_1.pt",
    "activity": "encoder_K562/fold_10.pt",
}
SEPARATOR, SOURCE = "|", "source"


class Network(NamedTuple):
    """Tensors under their published names, the shape they belong to, and where they come from."""

    tensors: dict[str, np.ndarray]
    config: ModelConfig
    source: str

    def variables(self, dtype=np.float32) -> Variables:
        """Our parameters and statistics."""
        wide = {
            name: value.astype(dtype) if value.dtype.kind == "f" else value
            for name, value in self.tensors.items()
        }
        return torch_names.variables_of(wide, self.config)


def write(data: pathlib.Path, out: pathlib.Path) -> None:
    """Collects the tensors of both networks; needs PyTorch where they have to be drawn."""
    arrays: dict[str, np.ndarray] = {}
    for kind, name in FILES.items():
        path = data / "weights" / name
        if path.is_file():
            tensors, source = torch_zip.read_torch_file(path).tensors, f"published, {name}"
        else:
            tensors, source = _fresh(kind), "fresh, drawn at random"
        arrays |= {f"{kind}{SEPARATOR}{key}": value for key, value in tensors.items()}
        arrays[f"{kind}{SEPARATOR}{SOURCE}"] = np.array(source)
    np.savez(out, **arrays)


def sources(path: pathlib.Path) -> dict[str, str]:
    """Where the tensors of each network come from."""
    with np.load(path) as arrays:
        return {kind: str(arrays[f"{kind}{SEPARATOR}{SOURCE}"]) for kind in FILES}


def read(path: pathlib.Path, kind: str) -> Network:
    """One network of the file that `write` made."""
    with np.load(path) as arrays:
        prefix = kind + SEPARATOR
        tensors = {n.removeprefix(prefix): arrays[n] for n in arrays.files if n.startswith(prefix)}
    source = str(tensors.pop(SOURCE))
    # The published run used 4 heads; the tensors do not tell.
    return Network(tensors, torch_names.recognise(tensors), source)


def _fresh(kind: str) -> dict[str, np.ndarray]:
    import torch

    from tests import torch_reference

    torch.manual_seed(0)
    if kind == "expression":
        module = torch_reference.Expression(ExpressionConfig())
    else:
        module = torch_reference.Activity(ActivityConfig())
    return torch_reference.state_of(module)


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="folder of real data")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="file to write, .npz")
    arguments = parser.parse_args()
    write(arguments.data, arguments.out)
    print(json.dumps(sources(arguments.out)))


if __name__ == "__main__":
    main()
