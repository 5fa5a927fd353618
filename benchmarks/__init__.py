"""flowzoo beside its peers: one command, one table."""
