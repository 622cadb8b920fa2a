"""How hard properties are tried: other examples each time, fewer of them than Hypothesis would take, because the
default tests run often. `HYPOTHESIS_PROFILE=thorough` takes many more."""

import os

from hypothesis import settings

settings.register_profile("quick", max_examples=40)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
