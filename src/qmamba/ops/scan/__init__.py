"""The selective scan: its definition, plain PyTorch forms of it, and the choice between implementations."""
