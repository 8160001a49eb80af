"""Learning to restore images."""
