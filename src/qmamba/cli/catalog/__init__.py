"""Commands that list what there is, and run the tables of the paper."""
