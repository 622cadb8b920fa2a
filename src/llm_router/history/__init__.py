"""LAW: remembers what happened, across runs. Decides nothing; losing it costs estimates, never service."""
