"""Hand-written routes beside those of `everything`."""
