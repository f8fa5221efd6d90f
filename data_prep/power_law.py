"""Contact as a power law of distance, for chromosomes without Hi-C and for scaling Hi-C."""

from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64, Real


@dataclass(frozen=True)
class PowerLaw:
    """contact(d) = exp(scale - gamma * ln(max(d, min_distance_bp) + 1)), d in bp."""

    gamma: float
    scale: float
    min_distance_bp: float = 5000.0

    def __post_init__(self):
        if not self.gamma > 0 or self.min_distance_bp < 0:
            raise ValueError(
                f"power law with gamma={self.gamma}, min_distance_bp={self.min_distance_bp}; "
                "expected gamma above 0 and a distance of at least 0"
            )

    def contact(self, distance_bp: Real[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """Expected contact at distances without sign."""
        distance = np.maximum(np.abs(np.asarray(distance_bp, np.float64)), self.min_distance_bp)
        return np.exp(self.scale - self.gamma * np.log(distance + 1))

    def to_dict(self) -> dict[str, float]:
        """The constants, for JSON."""
        return asdict(self)


# Fitted to average Hi-C; the reference is the exponent Hi-C is scaled to.
OBSERVED = PowerLaw(gamma=1.024238616787792, scale=5.9594510043736655)
REFERENCE = PowerLaw(gamma=0.87, scale=-4.80 + 11.63 * 0.87)
