"""Heads where there is no PyTorch: are they equal, are they quick, are they small."""
