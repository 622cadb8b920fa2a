"""One endpoint in front of many inference servers: see docs/architecture.md."""

__version__ = "0.1.0"
