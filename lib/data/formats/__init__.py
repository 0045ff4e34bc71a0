"""Where collections come from: each module reads one kind of source and writes a folder in BEIR layout."""
