"""Commands for millions of images."""
