"""Fixtures that tests share: real data for development, where this machine has it."""

import os
import signal
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is loaded; several test processes share the cores
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background jobs, and in all that they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

import numpy as np  # noqa: E402
import pytest
from hypothesis import settings

from tests.script_runs import RUNS, SMALL

settings.register_profile("no deadline", deadline=None)  # on a busy machine any example can take long
settings.load_profile("no deadline")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data, $DPU_REAL_DATA; without it a skip."""
    folder = os.environ.get("DPU_REAL_DATA", "")
    if not os.path.isdir(folder):
        pytest.skip(f"no real data: set DPU_REAL_DATA to a folder with mnist.npz and cifar10/, not {folder!r}")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def real_cifar10(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose cifar10.npz holds 2,000 training and 1,000 test images of the real CIFAR-10."""
    from PIL import Image

    sheets = real_data / "cifar10"
    if not sheets.is_dir():
        pytest.skip(f"no real CIFAR-10: {sheets} is missing")
    arrays = {}
    for split, count in (("train", 2000), ("test", 1000)):
        # A sheet is 100 rows of 100 images of 32 x 32 pixels, so the first images are its top rows.
        with Image.open(sheets / f"{split}_0.webp") as sheet:
            rows = np.asarray(sheet.convert("RGB"))[: count // 100 * 32]
        tiles = rows.reshape(-1, 32, 100, 32, 3).transpose(0, 2, 1, 3, 4)
        arrays[f"{split}_images"] = tiles.reshape(count, 32, 32, 3)
        arrays[f"{split}_labels"] = np.load(sheets / f"{split}_labels.npy")[:count]
    folder = tmp_path_factory.mktemp("cifar10")
    np.savez(folder / "cifar10.npz", **arrays)
    return folder


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    """Every run above, once."""
    out = tmp_path_factory.mktemp("runs")
    return {
        name: script.main([*flags.split(), *SMALL, "--output_dir", str(out)])
        for name, (script, flags) in RUNS.items()
    }
