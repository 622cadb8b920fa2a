"""LAW: reads what the devices have and who uses it. Never interprets."""
