"""LAW: parses, prints, exits with a code."""
