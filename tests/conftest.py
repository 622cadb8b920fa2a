"""How hard properties are tried: other examples each time, fewer of them than Hypothesis would take, because the
default tests run often. `HYPOTHESIS_PROFILE=thorough` takes many more. How long one takes says something of the machine
and nothing of the program."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", settings.get_profile("untimed"), max_examples=40)
settings.register_profile("thorough", settings.get_profile("untimed"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
