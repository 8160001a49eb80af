"""Correlations with human opinion and statistics of natural scenes."""
