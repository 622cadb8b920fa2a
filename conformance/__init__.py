"""The contract that every backend keeps, asked of real engines. Not part of the package; see README.md."""
