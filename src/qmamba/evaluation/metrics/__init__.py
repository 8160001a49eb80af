"""Figures of merit: correlations with human opinion, fidelity, statistics of natural scenes."""
