"""How the labels that a run trains on were made, in the words of data/label_scale.py."""

from typing import Any

from epinformer_jax.data import label_scale
from epinformer_jax.data.records import Manifest

LOG2_LABEL = "log2_activity"  # the name that tables of windows have for it


def stated(config) -> dict[str, Any]:
    """What the configuration says of the expression label; empty where it leaves that to the data.

    Raises:
      ValueError: it is stated in a way that is not known.
    """
    text = config.data.label_transform
    try:
        return label_scale.read_transform(text) if text else {}
    except ValueError as error:
        raise ValueError(f"config.data.label_transform: {error}") from None


def of_expression(config, manifest: Manifest) -> dict[str, Any]:
    """The expression label's unit and transform: as configured, else as the data say."""
    made = stated(config) or manifest.label_transforms.get(config.data.label, {})
    return {"unit": config.data.label_unit, **made}


def of_activity(config, manifest: Manifest) -> dict[str, Any]:
    """The activity label's transform, as the data say; of `log2_activity` at least the base."""
    label = config.data.activity_label
    known = {"name": "log2"} if label == LOG2_LABEL else {}
    return manifest.label_transforms.get(label, known)
