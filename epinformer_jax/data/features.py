"""Feature schemas: which signals a model takes, in which order, on which scale (spec 1.15). Stored
in every checkpoint.

The same published weights are fed three different orders and scales by the original's scripts; here
order, transform and unit are data. A schema is made by `schema(name, preset)` or read back from a
checkpoint, and applied by `link_array` and
`gene_array`.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from epinformer_jax.data.records import GeneExample
from epinformer_jax.data.tables import MRNA_FEATURES

TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "raw": lambda x: x,
    "zero": lambda x: np.zeros_like(x),
    "absolute": np.abs,
    "absolute_kb": lambda x: np.abs(x) / 1000.0,
    "log10_1p": lambda x: np.log10(1.0 + x),
    "ln_1p": np.log1p,
    "log10_absolute_kb": lambda x: np.log10(0.1 + np.abs(x) / 1000.0),
    "log10_contact": lambda x: np.log10(1e-4 + x) + 3.0,
}

PRESETS = ("promoter", "PE", "PE-Activity", "PE-Activity-HiC")
SCHEMAS = ("published", "pipeline2026", "log_signals")


@dataclasses.dataclass(frozen=True)
class Feature:
    """One model input: `transform` of the signal `source`.

    In a link feature, the promoter's own slot holds `promoter_value`, or, where `promoter_source`
    names a gene signal,
    `promoter_transform` of that.
    """

    source: str
    transform: str
    unit: str
    promoter_value: float = 0.0
    promoter_source: str = ""
    promoter_transform: str = "raw"

    def __post_init__(self):
        for transform in (self.transform, self.promoter_transform):
            if transform not in TRANSFORMS:
                raise ValueError(
                    f"feature {self.source}: transform {transform!r} is unknown; "
                    f"known are {', '.join(sorted(TRANSFORMS))}"
                )

    @property
    def name(self) -> str:
        """A readable column name."""
        return self.source if self.transform == "raw" else f"{self.transform}({self.source})"


@dataclasses.dataclass(frozen=True)
class FeatureSchema:
    """All scalar inputs of an expression model, and what an unknown base counts as.

    `verified` is False where no published output was at hand to check the scale against.
    """

    name: str
    preset: str
    link_features: tuple[Feature, ...]
    gene_features: tuple[Feature, ...]
    unknown_base: float
    verified: bool = True

    @property
    def use_elements(self) -> bool:
        """False for the promoter preset: all elements are left out."""
        return self.preset != "promoter"

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return dataclasses.asdict(self)


def from_dict(fields: dict[str, Any]) -> FeatureSchema:
    """The schema written by `FeatureSchema.to_dict`."""
    fields = dict(fields)
    for key in ("link_features", "gene_features"):
        fields[key] = tuple(Feature(**feature) for feature in fields[key])
    return FeatureSchema(**fields)


def schema(name: str, preset: str) -> FeatureSchema:
    """A built-in schema for one of the four published presets (spec 1.14).

    `published`: row 1 of spec 1.15, the scale of the released weights. `pipeline2026`: the newer
    pipeline's raw scales (no published output to check against). `log_signals`: our own, every
    signal on a log scale and DNase and H3K27ac apart.

    Raises:
      ValueError: unknown schema or preset.
    """
    if name not in SCHEMAS:
        raise ValueError(f"feature schema {name!r} is unknown; known are {', '.join(SCHEMAS)}")
    if preset not in PRESETS:
        raise ValueError(f"preset {preset!r} is unknown; known are {', '.join(PRESETS)}")
    links, promoter = _BUILDERS[name](preset)
    with_activity = preset in ("PE-Activity", "PE-Activity-HiC")
    if not with_activity:
        promoter = tuple(dataclasses.replace(feature, transform="zero") for feature in promoter)
    mrna = tuple(Feature(source, "raw", "z or fraction, as published") for source in MRNA_FEATURES)
    unknown = 0.0 if name == "pipeline2026" else 0.25
    return FeatureSchema(name, preset, links, mrna + promoter, unknown, name != "pipeline2026")


def without_promoter_signals(schema: FeatureSchema) -> FeatureSchema:
    """The schema with promoter activity (and the promoter's DNase and H3K27ac) silent: 0 as gene
    features, the constant `promoter_value` in the promoter's own slot. Shapes stay."""
    links = tuple(dataclasses.replace(f, promoter_source="") for f in schema.link_features)
    genes = tuple(
        dataclasses.replace(f, transform="zero") if f.source.startswith("promoter_") else f
        for f in schema.gene_features
    )
    return dataclasses.replace(schema, link_features=links, gene_features=genes)


def link_array(
    schema: FeatureSchema,
    example: GeneExample,
    link_signal_names: Sequence[str],
    gene_signal_names: Sequence[str],
) -> Float[np.ndarray, "S P"]:
    """Link features of the promoter's slot (row 0) and of each element, float32.

    Raises:
      ValueError: a signal the schema needs is not in the data.
    """
    count = len(example.element_length)
    columns = []
    for feature in schema.link_features:
        if feature.source == "distance":
            values = example.distance_bp.astype(np.float64)
        else:
            values = example.link_signals[:, _position(feature.source, link_signal_names, "links")]
        column = np.full(1 + count, feature.promoter_value)
        column[1:] = TRANSFORMS[feature.transform](values.astype(np.float64))
        if feature.promoter_source:
            own = example.gene_signals[
                _position(feature.promoter_source, gene_signal_names, "genes")
            ]
            column[0] = TRANSFORMS[feature.promoter_transform](np.float64(own))
        columns.append(column)
    if not columns:
        return np.zeros((1 + count, 0), np.float32)
    return np.stack(columns, axis=1).astype(np.float32)


def gene_array(
    schema: FeatureSchema, example: GeneExample, gene_signal_names: Sequence[str]
) -> Float[np.ndarray, "G"]:
    """Gene features in the schema's order, float32.

    Raises:
      ValueError: a signal the schema needs is not in the data.
    """
    values = []
    for feature in schema.gene_features:
        if feature.transform == "zero":
            values.append(0.0)
            continue
        own = example.gene_signals[_position(feature.source, gene_signal_names, "genes")]
        values.append(float(TRANSFORMS[feature.transform](np.float64(own))))
    return np.asarray(values, np.float32)


def _position(source: str, names: Sequence[str], table: str) -> int:
    if source not in names:
        raise ValueError(
            f"the model needs the column {source!r} of the {table} table, but the data has "
            f"{', '.join(names) or 'none'}; "
            f"add the column and build again, or choose a preset that does not need it"
        )
    return list(names).index(source)


def _published(preset: str):
    distance = Feature("distance", "absolute_kb", "kb")
    contact = Feature("contact", "log10_1p", "log10(1 + contact)")
    activity = Feature("activity", "raw", "RPM")
    links = {
        "promoter": (),
        "PE": (distance,),
        "PE-Activity": (distance, activity),
        "PE-Activity-HiC": (distance, contact, activity),
    }
    return links[preset], (Feature("promoter_activity", "raw", "RPM"),)


def _pipeline2026(preset: str):
    distance = Feature("distance", "absolute", "bp", promoter_value=1.0)
    activity = Feature("activity", "raw", "RPM", 1.0, "promoter_activity", "ln_1p")
    contact = Feature("contact", "raw", "contact", promoter_value=1.0)
    links = {
        "promoter": (),
        "PE": (distance,),
        "PE-Activity": (distance, activity),
        "PE-Activity-HiC": (distance, activity, contact),
    }
    return links[preset], (Feature("promoter_activity", "ln_1p", "ln(1 + RPM)"),)


def _log_signals(preset: str):
    distance = Feature("distance", "log10_absolute_kb", "log10(0.1 + kb)", promoter_value=-1.0)
    activity = Feature(
        "activity",
        "ln_1p",
        "ln(1 + RPM)",
        promoter_source="promoter_activity",
        promoter_transform="ln_1p",
    )
    dnase = Feature(
        "dnase",
        "ln_1p",
        "ln(1 + RPM)",
        promoter_source="promoter_dnase",
        promoter_transform="ln_1p",
    )
    h3k27ac = Feature(
        "h3k27ac",
        "ln_1p",
        "ln(1 + RPM)",
        promoter_source="promoter_h3k27ac",
        promoter_transform="ln_1p",
    )
    contact = Feature("contact", "log10_contact", "3 + log10(1e-4 + contact)")
    links = {
        "promoter": (),
        "PE": (distance,),
        "PE-Activity": (distance, activity, dnase, h3k27ac),
        "PE-Activity-HiC": (distance, contact, activity, dnase, h3k27ac),
    }
    promoter = tuple(
        Feature(source, "ln_1p", "ln(1 + RPM)")
        for source in ("promoter_activity", "promoter_dnase", "promoter_h3k27ac")
    )
    return links[preset], promoter


_BUILDERS = {"published": _published, "pipeline2026": _pipeline2026, "log_signals": _log_signals}
