"""LAW: looks at the machine and says what to fix. Changes nothing, starts nothing but `--version`."""
