"""LAW: describes one inference server each. Starts nothing, calls nothing, reads no file."""
