"""Results to look at: contact sheets, a report in one file, and a local page."""
