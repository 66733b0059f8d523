"""The command ``qpart run``: a model of a server, on arrays in files."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ArtifactError, RequestError
from ..request import Request
from .arrays import Array
from .client import Answer, Client
from .head_cache import HeadCache
from .transport import Tls

_DEVICE: Mapping[str, Any] = {"clock_hz": 1e9, "cycles_per_mac": 1.0}
_SERVER: Mapping[str, Any] = {"clock_hz": 3e9, "cycles_per_mac": 1.25}
_LINK: Mapping[str, Any] = {"uplink_bps": 20e6, "downlink_bps": 20e6}
"""Where measuring begins."""


def run(options: argparse.Namespace) -> None:
    """What the command's options ask for.

    Raises:
        RequestError: an option or a file makes no sense.
        ArtifactError: a file cannot be read or written.
        Unavailable: the server does not answer, and there is no fallback.
    """
    if options.repeat < 1:
        raise RequestError(f"--repeat {options.repeat}: give a number above 0")
    args, kwargs = _inputs(options.input)
    request = request_of(options.device, options.max_drop)
    if options.verbose:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger("qpart_fx.device")
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
    with Client(
        options.target,
        options.model,
        request,
        cache=None if options.cache is None else HeadCache(options.cache, max_bytes=options.cache_mb << 20),
        token=None if options.token_file is None else lambda: _text(options.token_file).strip(),
        tls=_tls(options),
        fallback=options.fallback,
        timeout_s=options.timeout,
        threads=options.threads,
    ) as client:
        for _ in range(options.repeat):
            answer = client.answer(*args, **kwargs)
            print(_line(answer), file=sys.stderr)
        print(f"link: {client.link}", file=sys.stderr)
    _write(options.output, answer.outputs)


def request_of(path: Path | None, max_drop: float | None) -> Request:
    """The request in a JSON file: its fields, those of a device alone, or of neither; the rest by default.

    Raises:
        ArtifactError: it cannot be read.
        RequestError: a field is unknown or wrong.
    """
    given = {} if path is None else _json(path)
    if given and "device" not in given and "max_accuracy_drop" not in given:
        given = {"device": given}
    fields: dict[str, Any] = {"max_accuracy_drop": 0.01, "device": _DEVICE, "server": _SERVER, "link": _LINK} | given
    if max_drop is not None:
        fields["max_accuracy_drop"] = max_drop
    return Request.from_json(json.dumps(fields))


def _line(answer: Answer) -> str:
    where: str = answer.source
    if answer.source == "server":
        where += f", {answer.sent_bytes:,} bytes up and {answer.received_bytes:,} down"
    again = "" if answer.tries <= 1 else f", asked {answer.tries} times"
    why = "" if answer.why is None else f" ({answer.why})"
    return f"{answer.seconds * 1e3:.1f} ms: {where}{again}{why}"


def _inputs(paths: list[Path]) -> tuple[list[Array], dict[str, Array]]:
    args: list[Array] = []
    kwargs: dict[str, Array] = {}
    for path in paths:
        try:
            loaded = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise ArtifactError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
        if isinstance(loaded, np.ndarray):
            args.append(loaded)
        else:
            with loaded:
                kwargs |= {name: loaded[name] for name in loaded.files}
    return args, kwargs


def _write(path: Path | None, outputs: Any) -> None:
    arrays = dict(_named(outputs, ""))
    if path is None:
        for name, array in arrays.items():
            print(f"{name}: {array.dtype}{list(array.shape)}" if array.size > 100 else f"{name}: {array.tolist()}")
        return
    try:
        if path.suffix == ".npy" and len(arrays) == 1:
            np.save(path, next(iter(arrays.values())))
        elif path.suffix == ".npz":
            np.savez(path, **arrays)  # type: ignore[arg-type]  # numpy takes it for its own options
        else:
            raise RequestError(f"--output {path}: the model returns {len(arrays)} arrays; give a file called .npz")
    except OSError as error:
        raise ArtifactError(f"cannot write {path}: {error.strerror}") from error


def _named(outputs: Any, path: str) -> Iterator[tuple[str, Array]]:
    """The arrays and numbers of a structure, by the keys and positions that lead to them."""
    if isinstance(outputs, dict | list | tuple):
        for key, part in outputs.items() if isinstance(outputs, dict) else enumerate(outputs):
            yield from _named(part, f"{path}.{key}" if path else str(key))
    elif outputs is not None:
        yield path or "output", np.asarray(outputs)


def _tls(options: argparse.Namespace) -> Tls | None:
    if not (options.tls or options.tls_ca or options.tls_cert or options.tls_key or options.tls_name):
        return None
    return Tls(
        ca=options.tls_ca, certificate=options.tls_cert, key=options.tls_key, server_name=options.tls_name
    )  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ArtifactError(f"{path} holds no JSON object")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
