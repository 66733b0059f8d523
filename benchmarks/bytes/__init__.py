"""How small a network's weights become, everything counted, and what that costs in accuracy.

``peers.py`` measures tools of others; ``results/peers.json`` holds what it found.
"""
