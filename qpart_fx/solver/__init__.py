"""Bits and cuts from tables of numbers: neither torch nor graphs are known here."""
