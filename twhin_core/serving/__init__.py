"""Answers queries of a run, or of the published version of a series, over HTTP: `twhin serve`."""
