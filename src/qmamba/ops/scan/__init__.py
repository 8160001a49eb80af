"""The selective scan: its definition, its plain PyTorch forms, and the choice of a backend."""
