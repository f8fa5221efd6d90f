"""One kind of bad input, and a region to count over. `{path}` in a message is the file."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pandas as pd

REGIONS = pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [100]})


class Case(NamedTuple):
    """What is wrong, the file's name and content, who reads it, and the message."""

    what: str
    file: str
    content: str | bytes
    read: Callable[[Any], Any]
    message: str
