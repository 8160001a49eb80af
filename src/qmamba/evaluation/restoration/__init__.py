"""How well a network restores, by the protocol of published tables."""
