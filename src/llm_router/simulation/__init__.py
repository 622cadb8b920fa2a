"""LAW: runs the real core, and rival rules, over a trace on a virtual clock. Starts nothing, waits for nothing."""
