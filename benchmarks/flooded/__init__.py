"""The module that the flood is for."""
