"""Reading the kinds of files that scores are published in."""
