"""Figures as PNG files, drawn alike on every machine; one that fails costs nothing but itself."""

import io
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from utils.system.files import write_atomic


def save_figure(path: Path, draw: Callable) -> str | None:
    """Write the matplotlib figure that `draw` returns to `path`; returns None, or in one line why there is none.

    matplotlib's own settings hold, not those of a matplotlibrc or a notebook: LaTeX may be missing, and MPLBACKEND
    can name what this interpreter does not have. Whatever goes wrong in drawing must not end a program that has
    results to write, so every exception becomes a line.
    """
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about glyphs that no font has
            import matplotlib  # takes a second, and reads MPLBACKEND

            with matplotlib.rc_context():
                matplotlib.rcdefaults()
                image = io.BytesIO()
                draw().savefig(image, format="png", dpi=150, backend="agg")
        write_atomic(path, image.getvalue())
    except Exception as error:
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = " ".join(text.split()) or type(error).__name__
        if isinstance(error, ModuleNotFoundError):
            reason += ": pip install -r requirements.txt"
        return f"{path} cannot be drawn ({reason[:200]})"
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return None
