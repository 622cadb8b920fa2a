"""LAW: the only room that changes the machine. Every change knows whether it is done, and its undo."""
