"""Reading back what qpart_fx wrote."""

from __future__ import annotations

from pathlib import Path

from torch.fx import GraphModule

from . import container
from .backends.packed import unpack_side, unpack_split
from .errors import ArtifactError
from .model_profile import Profile
from .profile_file import unpack_profile
from .split_model import SplitModel


def load(path: str | Path) -> Profile | SplitModel | GraphModule:
    """The :class:`Profile` or :class:`SplitModel` that was saved to ``path``, or the head or tail exported to it.

    Nothing in the file is executed, and nothing is read before its hash agrees.

    Raises:
        ArtifactError: there is no such file, or it is cut short, damaged, of a later version, or not one of ours.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read {path}: {error.strerror}") from error
    try:
        return load_bytes(content)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def load_bytes(content: bytes) -> Profile | SplitModel | GraphModule:
    """The same from the contents of a file.

    Raises:
        ArtifactError: they are damaged, of a later version, or not ours.
    """
    kind, manifest, data = container.decode(content, "profile", "split", "head", "tail")
    if kind == "profile":
        return unpack_profile(manifest, data)
    return SplitModel(*unpack_split(manifest, data)) if kind == "split" else unpack_side(content)
