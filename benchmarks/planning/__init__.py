"""How good plans are: the noise they predict, the answers they change, what they cost, how fast they come, what holds.

    python -m benchmarks.planning DIRECTORY [--only NAME]

DIRECTORY holds real networks and data, and ``zoo.py``, which loads them: ``model(name)`` for ``"resnet20"`` and
``"mobilenet_v1"``, ``cifar10(split)`` and ``photos()``, and MNIST's own four files in ``mnist/``. Prints tables and
writes results/planning.json. Everything is judged on samples that served neither to plan nor to prove a plan.
"""
