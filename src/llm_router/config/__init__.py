"""LAW: the only place with defaults, files and environment."""
