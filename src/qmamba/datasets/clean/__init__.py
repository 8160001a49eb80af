"""Clean images to learn restoration from, and its published test sets."""
