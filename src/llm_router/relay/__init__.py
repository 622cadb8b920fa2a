"""LAW: moves bytes. Decides nothing."""
