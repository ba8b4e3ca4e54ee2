"""What a run root says, sent on to the trackers that the config names."""
