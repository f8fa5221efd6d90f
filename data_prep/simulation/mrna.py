"""The eight published mRNA features, drawn from gene structures that could exist.

Lengths are whole base pairs, exons whole numbers, and the z-scores use the published constants, so
that the features of a simulated gene can be recomputed from its structure like those of a real one.
"""

import numpy as np

from data_prep.simulation.settings import stream

# z = (log10(length + 0.1) - mean) / sd.
LENGTH_CONSTANTS = {
    "UTR5LEN_log10zscore": (2.116473, 0.702312),
    "CDSLEN_log10zscore": (3.122174, 0.320230),
    "INTRONLEN_log10zscore": (4.128012, 1.044710),
    "UTR3LEN_log10zscore": (2.728381, 0.863857),
}
_GC = {"UTR5GC": (0.603, 0.11), "CDSGC": (0.530, 0.07), "UTR3GC": (0.434, 0.08)}
# Correlation of log lengths: long genes are long in every part.
_SHARED_SHARE = 0.35
_MISSING_UTR_SHARE = 0.02


def draw_mrna_features(genes: int, seed: int) -> dict[str, np.ndarray]:
    """The eight features by published name, in the published order, rounded to 6 decimals.

    A missing UTR has length 0 and GC 0.
    """
    rng = stream(seed, "mrna")
    size = rng.standard_normal(genes)
    richness = rng.standard_normal(genes)
    lengths, features = {}, {}
    for name, (mean, sd) in LENGTH_CONSTANTS.items():
        # Drawn within +-2 sd: the published tails come from missing parts, which are drawn below.
        score = np.sqrt(_SHARED_SHARE) * size + np.sqrt(1 - _SHARED_SHARE) * rng.standard_normal(
            genes
        )
        spread = 0.5 if name.startswith("UTR") else 0.9
        lengths[name] = np.rint(
            10 ** (mean + 0.1 + spread * sd * np.clip(score, -2.5, 2.5))
        ).astype(np.int64)
    gc = {}
    for name, (mean, sd) in _GC.items():
        draw = mean + sd * (0.6 * richness + 0.8 * rng.standard_normal(genes))
        gc[name] = np.round(np.clip(draw, 0.2, 0.85), 3)
    for part in ("UTR5", "UTR3"):
        missing = rng.random(genes) < _MISSING_UTR_SHARE
        lengths[f"{part}LEN_log10zscore"][missing] = 0
        gc[f"{part}GC"][missing] = 0.0
    for name, (mean, sd) in LENGTH_CONSTANTS.items():
        features[name] = np.round((np.log10(lengths[name] + 0.1) - mean) / sd, 6)
    features |= gc
    coding_kb = lengths["CDSLEN_log10zscore"] / 1000
    exons = 1 + rng.poisson(6.0 * coding_kb)
    features["ORFEXONDENSITY"] = np.round(exons / coding_kb, 6)
    return features
