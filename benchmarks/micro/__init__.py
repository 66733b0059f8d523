"""The micro-benchmarks, compared with those that were saved last, as ratios to a fixed workload beside each.

    make bench                               or: python -m benchmarks.micro [--no-save] [arguments of pytest]

Runs ``benchmarks/bench_*.py``, prints each time, its ratio to the workload, and how much that has changed since the run
in ``benchmarks/micro/saved.json``, which it then takes the place of. With ``-k`` only what was run is replaced.
"""
