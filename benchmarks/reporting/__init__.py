"""One report of all experiments, ``benchmarks/report/``: each writes its section, and all that are there make the whole.

    python -m benchmarks.reporting

makes it anew from the sections that lie there, without any experiment.
"""
