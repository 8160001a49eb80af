"""MambaIR: image restoration with the selective scan."""
