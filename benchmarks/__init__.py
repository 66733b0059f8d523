"""Measurements: what the compiler costs, and what its answers are worth."""
