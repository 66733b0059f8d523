"""How many calls a second a server of tails takes, and how long they last; see :mod:`.__main__`."""
