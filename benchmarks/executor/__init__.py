"""A module that does nothing but answer, so that what is measured is the way to it."""
