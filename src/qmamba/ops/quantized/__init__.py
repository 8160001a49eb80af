"""Operators of quantized networks: the scan on codes and the rounding of values to codes."""
