"""ImageNet in small: JPEG files of many sizes in class folders, a flat val/, and a devkit of the true structure."""

import io
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

WNIDS = ("n01440764", "n02084071", "n02121808", "n03100240")
# The devkit's ids are in another order than the names, and it has classes that no image shows.
ILSVRC_IDS = {"n01440764": 449, "n02084071": 3, "n02121808": 1000, "n03100240": 1}
GROUPS = ("n00001740", "n00001930")  # of classes: synsets with children


def made_up_images(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Pictures of 32x32 pixels, each class with a colour and a direction of its own, and noise."""
    draw = np.random.RandomState(seed)
    ramp = np.linspace(0, 1, 32)
    images = []
    for label in labels:
        stripes = ramp[:, None] if label % 2 else ramp[None, :]
        colour = np.array([label & 1, label >> 1 & 1, label % 3 / 2]) * 120 + 60
        images.append(stripes[..., None] * colour + draw.randint(0, 60, (32, 32, 3)))
    return np.clip(images, 0, 255).astype(np.uint8)


def write_jpegs(folder: Path, images: np.ndarray, names: list[str], seed: int = 0) -> None:
    """Write images as JPEGs of varied sizes, one in nine grey."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.RandomState(seed)
    for index, (image, name) in enumerate(zip(images, names, strict=True)):
        picture = Image.fromarray(image).resize(tuple(draw.randint(24, 72, 2).tolist()))
        (picture.convert("L") if index % 9 == 8 else picture).save(folder / name, "JPEG", quality=90)


def write_tree(
    root: Path, images: np.ndarray, labels: np.ndarray, train: int, layout: str, wnids: tuple[str, ...] = WNIDS
) -> Path:
    """Write train/ with `train` images of each class, and the others into val/, "flat" with a devkit or in "classes"."""
    held_out = []
    for label, wnid in enumerate(wnids):
        mine = np.flatnonzero(labels == label)
        names = [f"{wnid}_{index}.JPEG" for index in mine[:train]]
        write_jpegs(root / "train" / wnid, images[mine[:train]], names, seed=label)
        held_out += mine[train:].tolist()
    held_out.sort()  # the classes mixed, as in ImageNet's validation set
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(held_out) + 1)]
    for place, name in zip(held_out, names, strict=True):
        folder = root / "val" if layout == "flat" else root / "val" / wnids[labels[place]]
        write_jpegs(folder, images[[place]], [name], seed=place)
    if layout == "flat":
        write_devkit(root, [ILSVRC_IDS[wnids[labels[place]]] for place in held_out])
    return root


def write_devkit(root: Path, truth: list[int], ids: dict[str, int] = ILSVRC_IDS) -> None:
    """Write the archive with ground truth and meta.mat as ILSVRC 2012 has them."""
    from scipy.io import savemat

    named = {number: wnid for wnid, number in ids.items()}
    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images".split()
    synsets = np.zeros((1000 + len(GROUPS), 1), dtype=[(field, object) for field in fields])
    for place in range(len(synsets)):
        number, group = place + 1, place >= 1000
        wnid = GROUPS[place - 1000] if group else named.get(number, f"n9{number:07d}")
        children = np.array([[1.0, 2.0, 3.0]]) if group else np.zeros((0, 0))
        row = (float(number), wnid, f"thing {number}", "a thing", float(children.size), children, 0.0, 1300.0)
        synsets[place, 0] = row
    meta = io.BytesIO()
    savemat(meta, {"synsets": synsets})
    ground_truth = "".join(f"{number}\n" for number in truth).encode()
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        for name, content in (
            ("readme.txt", b"read me"),
            ("data/meta.mat", meta.getvalue()),
            ("data/ILSVRC2012_validation_ground_truth.txt", ground_truth),
        ):
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
