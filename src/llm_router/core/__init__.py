"""LAW: decides. No IO, no clock, no logging, no await, no third party.

`Scheduler.handle(event) -> list[Command]` is the only mutator; everything outside turns commands into effects.
"""
