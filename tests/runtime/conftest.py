"""Properties have no time limit of their own: the machine may be busy."""

from hypothesis import settings

settings.register_profile("fissile", deadline=None, max_examples=60)
settings.load_profile("fissile")
