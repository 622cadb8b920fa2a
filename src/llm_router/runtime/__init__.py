"""LAW: turns the handle: inbox, core, commands, effects. Decides nothing that `core` could decide."""
