"""Published numbers beside ours: the table of `bench replay`, and what papers' values determine."""
