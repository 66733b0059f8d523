"""Data sets from the files in which their authors publish them; what is missing or broken is named, with the remedy.

Images are float tensors (samples, channels, rows, columns) in [0, 1], labels are integers from 0.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Data = tuple[Tensor, Tensor]

Bytes = NDArray[np.uint8]

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels: what torchvision's and most of timm's networks expect their inputs to be normalised by."""


class DataError(Exception):
    """Files are missing or broken. The message says which, and what to do."""


def mnist(directory: Path, split: str) -> Data:
    """The part ``"train"`` or ``"test"`` of MNIST, from its own gzip files."""
    stem = {"train": "train", "test": "t10k"}[split]
    names = [f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"]
    _require(directory, names, "MNIST's four gzip files", "https://ossci-datasets.s3.amazonaws.com/mnist/")
    images, labels = (_idx(directory / name) for name in names)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise DataError(f"{directory}: {names[0]} and {names[1]} do not belong together: download both again")
    return _as_data(images[:, None], labels)


def svhn(directory: Path, split: str) -> Data:
    """The part ``"train"``, ``"test"`` or ``"extra"`` of SVHN's cropped digits (format 2)."""
    from scipy.io import loadmat

    name = f"{split}_32x32.mat"
    _require(directory, [name], "SVHN's cropped digits", "http://ufldl.stanford.edu/housenumbers/")
    try:
        # on damaged bytes this raises any of what is caught below
        content = loadmat(directory / name, variable_names=("X", "y"))
        images, labels = content["X"].transpose(3, 2, 0, 1), content["y"].ravel() % 10  # its label of a 0 is 10
    except (ValueError, TypeError, KeyError, EOFError, OSError, NotImplementedError, zlib.error) as error:
        raise DataError(f"{directory / name} is no such file of SVHN ({error}): download it again") from error
    return _as_data(images, labels)


def cifar10(directory: Path, split: str) -> Data:
    """The part ``"train"`` or ``"test"`` of CIFAR-10, from the files of its binary version."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if split == "train" else ["test_batch.bin"]
    return _cifar(directory, names, "CIFAR-10", label_bytes=1)


def cifar100(directory: Path, split: str) -> Data:
    """The part ``"train"`` or ``"test"`` of CIFAR-100 with its hundred labels, from the files of its binary version."""
    return _cifar(directory, [f"{split}.bin"], "CIFAR-100", label_bytes=2)


def image_folders(directory: Path, *, size: int = 224, limit: int | None = None) -> Data:
    """Photos in one folder for each class, as ImageNet's are; the middle of each, scaled to ``size`` pixels a side.

    A label is the place of its folder among all of them in the order of their names; or their names are the labels, if
    they are numbers. ``limit``: photos of each class, the first ones; None for all.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    folders = sorted(path for path in directory.iterdir() if path.is_dir()) if directory.is_dir() else []
    found = [
        (int(folder.name) if all(each.name.isdecimal() for each in folders) else label, path)
        for label, folder in enumerate(folders)
        for path in sorted(each for each in folder.iterdir() if each.suffix.lower() in _PHOTOS)[:limit]
    ]
    if not found:
        raise DataError(
            f"{directory} holds no photos: put there one folder for each class, with .jpg, .jpeg or .png files in it; "
            "ImageNet's are at https://image-net.org/download.php"
        )
    images = np.empty((len(found), 3, size, size), np.uint8)
    for row, (_, path) in enumerate(found):
        try:
            with Image.open(path) as photo:
                images[row] = np.asarray(ImageOps.fit(photo.convert("RGB"), (size, size))).transpose(2, 0, 1)
        except (UnidentifiedImageError, OSError) as error:
            raise DataError(f"{path} is no photo that can be read ({error}): replace it, or take it away") from error
    return _as_data(images, np.array([label for label, _ in found]))


def normalised(
    data: Data, mean: Sequence[float] = IMAGENET_MEAN, deviation: Sequence[float] = IMAGENET_DEVIATION
) -> Data:
    """The same images, with the mean of each channel taken away and divided by its deviation."""
    images, labels = data
    return (images - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(deviation).view(-1, 1, 1), labels


_PHOTOS = (".jpg", ".jpeg", ".png")


def _cifar(directory: Path, names: Sequence[str], what: str, label_bytes: int) -> Data:
    pickled = [name for name in ("data_batch_1", "test_batch", "train", "test") if (directory / name).is_file()]
    if pickled and not (directory / names[0]).exists():
        raise DataError(
            f"{directory} holds the python version of {what} ({pickled[0]}), whose files are pickles: they can run any "
            f"code, and are never read here. Put the binary version ({', '.join(names)}) in its place, from "
            "https://www.cs.toronto.edu/~kriz/cifar.html"
        )
    _require(directory, names, f"the binary version of {what}", "https://www.cs.toronto.edu/~kriz/cifar.html")
    record = label_bytes + 3 * 32 * 32
    content = b"".join((directory / name).read_bytes() for name in names)
    if not content or len(content) % record:
        raise DataError(f"{directory}: {', '.join(names)} are not whole records of {record} bytes: download them again")
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    return _as_data(rows[:, label_bytes:].reshape(-1, 3, 32, 32), rows[:, label_bytes - 1])


def _idx(path: Path) -> Bytes:
    """The array in a gzip file of MNIST's format: two zeros, 8 for bytes, how many sizes, the sizes, the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is no whole gzip file ({error}): download it again") from error
    sizes = np.frombuffer(content[4 : 4 + 4 * content[3]] if content[:3] == b"\0\0\x08" else b"", ">i4")
    values = np.frombuffer(content, np.uint8)[4 + 4 * len(sizes) :]
    if not len(sizes) or len(values) != sizes.prod(dtype=np.int64):
        raise DataError(f"{path} is no file of MNIST's format, or not whole: download it again")
    return values.reshape(tuple(sizes))


def _require(directory: Path, names: Sequence[str], what: str, source: str) -> None:
    if missing := [name for name in names if not (directory / name).is_file()]:
        raise DataError(f"{directory} lacks {', '.join(missing)}: put {what} there, from {source}")


def _as_data(images: Bytes, labels: NDArray[np.integer]) -> Data:
    return torch.from_numpy(images / np.float32(255)), torch.from_numpy(labels.astype(np.int64))
