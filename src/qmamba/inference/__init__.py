"""Prepared networks: the fastest way to run a trained network where it is."""
