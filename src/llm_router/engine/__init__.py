"""LAW: is an inference server. Runs in a child process of its own; imports nothing of the router."""
