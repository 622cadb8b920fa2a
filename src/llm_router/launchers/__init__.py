"""LAW: owns what runs. Spawns, signals, reaps, follows output; knows no backend by name."""
