"""Which images of a folder of scores to keep, and which to look at."""
