"""Learning to rate images."""
