"""One report of all experiments, ``benchmarks/report/``: each writes its section, and those that are there make it all.

    python -m benchmarks.reporting

makes it anew from the sections that lie there, without any experiment.
"""
