"""LAW: finds, fetches and makes model files."""
