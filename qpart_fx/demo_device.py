"""A device of the serving demo, a process of its own without torch: it classifies digits all the time, and says what
happens.

Its one argument is a JSON file: ``name``, ``target``, ``model``, ``request``, ``cache``, ``data`` (an .npz of images,
labels and class means), ``fallback`` (a whole model's head, or None for a lesser model), ``start`` (a shared time).
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from .device import Client
from .device.arrays import Array
from .request import Request

_BATCH = 32
"""Images of a call."""

_PAUSE_S = 0.1
_TIMEOUT_S = 1.0
_REFRESH_S = 5.0
"""A device that needs no server looks so often whether the link has become faster."""


class Device:
    """Prints each change at once, and a line a second."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._name, self._start = settings["name"], settings["start"]
        with np.load(settings["data"], allow_pickle=False) as data:
            self._images, self._labels = data["images"], data["labels"]
            centres = data["centres"]
        logger = logging.getLogger("qpart_fx.device")
        logger.setLevel(logging.INFO)
        logger.addHandler(_Said(self._say))
        self._client = Client(
            settings["target"],
            settings["model"],
            Request.from_json(json.dumps(settings["request"])),
            cache=settings["cache"],
            fallback=settings["fallback"] or (lambda images: nearest(images, centres)),
            timeout_s=_TIMEOUT_S,
            refresh_s=_REFRESH_S,
        )

    def run(self) -> None:
        """Until the process is told to end."""
        place, told = 0, time.time()
        sources: Counter[str] = Counter()
        right, seconds = 0, []
        while True:
            taken = np.arange(place, place + _BATCH) % len(self._images)
            place += _BATCH
            answer = self._client.answer(self._images[taken])
            sources[answer.source] += 1
            right += int((answer.outputs.argmax(axis=1) == self._labels[taken]).sum())
            seconds.append(answer.seconds)
            if time.time() - told >= 1.0:
                by = ", ".join(f"{count} by the {source}" for source, count in sources.items())
                share = right / (_BATCH * sources.total())
                self._say(
                    f"  {sources.total():3} calls: {by}; {share:.1%} right; median {np.median(seconds) * 1e3:.1f} ms"
                    f", longest {max(seconds) * 1e3:.0f} ms"
                )
                told, right, seconds = time.time(), 0, []
                sources.clear()
            time.sleep(_PAUSE_S)

    def _say(self, words: str) -> None:
        print(f"{time.time() - self._start:5.1f} s  {self._name:6}  {words}", flush=True)


class _Said(logging.Handler):
    def __init__(self, say: Any) -> None:
        super().__init__()
        self._say = say

    def emit(self, record: logging.LogRecord) -> None:
        self._say(record.getMessage())


def nearest(images: Array, centres: Array) -> Array:
    """A lesser model: scores of each class by how near its mean image is."""
    flat = images.reshape(len(images), 1, -1) - centres.reshape(1, len(centres), -1)
    scores: Array = -np.square(flat).sum(axis=2)
    return scores


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background may ignore it
    with suppress(KeyboardInterrupt):
        Device(json.loads(Path(sys.argv[1]).read_text())).run()
