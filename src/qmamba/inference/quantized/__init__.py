"""Converted networks prepared for inference on the CPU, on their codes."""
