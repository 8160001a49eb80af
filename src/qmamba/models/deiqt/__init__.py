"""DEIQT: a vision transformer whose decoder asks for quality, to compare QMamba with."""
