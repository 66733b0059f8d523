"""Certificates for tests, made by openssl."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Authority:
    """One that signs: its own certificate, and those it signed, as ``NAME.pem`` and ``NAME.key``."""

    folder: Path
    name: str

    @property
    def certificate(self) -> Path:
        return self.folder / f"{self.name}.pem"

    @property
    def key(self) -> Path:
        return self.folder / f"{self.name}.key"

    def sign(self, name: str, *, days: int = 2) -> tuple[Path, Path]:
        """A certificate for localhost of someone called ``name``, and its key. ``days``: that it is valid from now on;
        below 0 it has expired."""
        certificate, key, wish = (self.folder / f"{name}.{ending}" for ending in ("pem", "key", "csr"))
        _openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", wish, "-subj", f"/CN={name}")
        extension = self.folder / f"{name}.ext"
        extension.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        _openssl(
            "x509", "-req", "-in", wish, "-CA", self.certificate, "-CAkey", self.key, "-CAcreateserial",
            "-days", str(days), "-extfile", extension, "-out", certificate,
        )  # fmt: skip
        return certificate, key


def authority(folder: Path, name: str) -> Authority:
    """A new one; the test is skipped where there is no openssl."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the command openssl")
    made = Authority(folder, name)
    _openssl(
        "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", made.key, "-out", made.certificate, "-days", "2",
        "-subj", f"/CN={name}",
    )  # fmt: skip
    return made


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
