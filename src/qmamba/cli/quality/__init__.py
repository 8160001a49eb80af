"""Commands that rate images and learn to."""
