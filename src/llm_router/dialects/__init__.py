"""LAW: translates between API dialects. Pure."""
