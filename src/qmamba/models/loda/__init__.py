"""LoDa: a frozen vision transformer fed with local features, to compare QMamba with."""
