"""What a model takes in memory, by what it takes it for. A pure value."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024**2
# What a server takes beside its model and for its first requests, measured with gemma-3-270m and the server in the
# package (b11549): 110 MiB. A model of 3 MiB leaves it at 50.
PROCESS = 112 * _MIB
# What a CUDA program takes of a GPU before it has done anything: 300 to 600 MiB, by GPU and library.
GPU_CONTEXT = 450 * _MIB


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """In bytes. `weights`: all of them. `cache`: keys, values and recurrent states for the whole context. `buffers`:
    what computing takes. `on_host`: what of weights and cache stays in host memory when a GPU is used. `uses_gpu`:
    False where the command line keeps the model off it."""

    weights: int
    cache: int = 0
    buffers: int = 0
    on_host: int = 0
    uses_gpu: bool = True

    @property
    def total(self) -> int:
        """Without a GPU."""
        return self.weights + self.cache + self.buffers + PROCESS

    @property
    def on_gpu(self) -> int:
        """Of GPU memory, on all GPUs together."""
        return self.weights + self.cache + self.buffers - self.on_host + GPU_CONTEXT if self.uses_gpu else 0
