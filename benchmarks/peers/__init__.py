"""Other tools beside ours, in an environment of their own: bytes and accuracy, multiply-adds, and splits.

    make peers ARGS=DIRECTORY

makes that environment, ``.venv-peers``, and runs in it

    python -m benchmarks.peers [DIRECTORY] [--only bytes|macs|splits] [--measured]

DIRECTORY is that of ``python -m benchmarks.planning``; without it there are only networks that need none, and no bytes.
Of the bytes only ModelOpt's are made here; those of the other tools take an hour, and are what ``python -m
benchmarks.bytes.peers`` and ``python -m benchmarks.bytes`` left in ``benchmarks/bytes/results``. With ``--measured``
the section is made from what lies there, which needs none of the tools.
"""
