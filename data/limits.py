"""How much foreign files may unpack to: a file of kilobytes can state gigabytes."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import DatasetError

VARIABLE = "DPU_MAX_GIGABYTES"  # of the environment: for who knows the data and has the memory
_GIGABYTES = 4.3  # ImageNet at 32x32 pixels fits


def check_size(source: Path, num_bytes: int, way_out: str) -> None:
    """Raise DatasetError if a data set in memory would take more than $DPU_MAX_GIGABYTES, by what its files state."""
    text = os.environ.get(VARIABLE) or str(_GIGABYTES)
    try:
        limit = float(text)
    except ValueError:
        raise DatasetError(f"{VARIABLE} is {text!r}; set it to a number of gigabytes") from None
    if not num_bytes <= limit * 1e9:
        problem = f"takes {num_bytes / 1e9:.3g} GB in memory, more than the limit of {limit:g} GB"
        raise DatasetError(f"{source}: {problem}; {way_out}, or set the environment variable {VARIABLE} to more")


@contextmanager
def huge_images_refused() -> Iterator[None]:
    """Within, Pillow raises an error for a file that states more than its limit, 89 million pixels, not only warns."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield
