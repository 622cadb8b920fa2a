"""What the router costs, measured beside nginx on the same machine in the same minutes. See README.md."""
