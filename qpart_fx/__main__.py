"""``python -m qpart_fx`` is the command ``qpart``."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
