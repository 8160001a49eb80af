"""Random trials that look for faults: `python -m tests.fuzz files|operators|runs`."""
