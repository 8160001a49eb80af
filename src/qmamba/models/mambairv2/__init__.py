"""MambaIRv2: image restoration with window attention and one attentive scan."""
