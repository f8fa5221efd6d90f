"""From a difference in a model's label to a fold change of what was measured.

Labels are logarithms of (measured + offset), plain or standardised (z). So a difference between two
predictions is a logarithm of a ratio of (measured + offset), whatever the level: nothing has to be
transformed back, and no ratio of values that may be 0 or negative is taken.
"""

import math
from typing import Any

# Label transform -> log2 of the fold change for one unit of the logarithm.
_LOG2_PER_UNIT = {"log2": 1.0, "ln": 1.0 / math.log(2.0), "log10": math.log2(10.0)}
_FIELDS = ("offset", "mean", "sd")
EXAMPLE = "z_log10,offset=0.1,mean=0.24,sd=1.06"


def log2_per_unit(label_transform: dict[str, Any]) -> float:
    """log2 of the fold change of (measured + offset) for a difference of 1 in the label.

    Knows log2, ln and log10, and each with z_ before it, which needs `sd`; else NaN: unknown.
    """
    name = label_transform.get("name", "").replace("-", "_")
    scale = float(label_transform.get("sd", math.nan)) if name.startswith("z_") else 1.0
    return scale * _LOG2_PER_UNIT.get(name.removeprefix("z_"), math.nan)


def read_transform(text: str) -> dict[str, Any]:
    """A label transform as commands and configurations state it: a name, then offset, mean, sd.

    Raises:
      ValueError: an unknown name or field, a number that is none, or z_ without its sd.
    """
    name, *fields = (part.strip() for part in text.split(","))
    transform: dict[str, Any] = {"name": name}
    for field in fields:
        key, _, value = field.partition("=")
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if key not in _FIELDS or not math.isfinite(number):
            raise ValueError(f"label transform {text!r}: {field!r} is wrong; expected {EXAMPLE}")
        transform[key] = number
    if not math.isfinite(log2_per_unit(transform)) or transform.get("sd", 1.0) <= 0:
        raise ValueError(
            f"label transform {text!r} is not known; expected log2, ln or log10, or z_ before one "
            f"of them with its sd above 0, such as {EXAMPLE}"
        )
    return transform
