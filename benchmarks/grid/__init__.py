"""Our plans beside those of every system of the paper's Table I, and of some more, over a grid of requests.

    python -m benchmarks.grid [DIRECTORY] [--networks NAME ...]

The grid: devices of 0.05 to 50 GMAC/s x links of 0.5 to 1,000 Mbit/s x 1 to 10,000 inferences a download x accuracy
budgets of 0.1 to 5 % x two servers. All policies (:mod:`.policies`) see the same networks, prices, limits and samples;
those that quantize have our rounding, which makes less noise than theirs would, and weights of the bits that they
count. What they choose is then really made and run on samples that none of them has seen. DIRECTORY holds zoo.py and
the data; without it there are only the three small networks that are trained on scikit-learn's digits.
"""
