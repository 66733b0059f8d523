"""The experiments of the paper, with its baselines really built, and sizes those of real files.

    python -m benchmarks.paper DIRECTORY [--only mnist|networks] [--budget 0.002] [--seed 0]

``mnist`` needs MNIST's four gzip files, in DIRECTORY or in its folder ``mnist``: cuts of a six-layer network under four
methods (Figs. 3 and 5 to 10, Table III). ``networks`` needs the folder that ``python -m benchmarks.planning`` takes
(Table IV), or data and a network of your own:

    python -m benchmarks.paper --only networks --dataset cifar100 --data FOLDER --network torchvision:resnet18
        [--weights FILE]

Each publishes its section of ``benchmarks/report``.
"""
