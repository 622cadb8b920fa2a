"""LAW: speaks HTTP. No decisions."""
