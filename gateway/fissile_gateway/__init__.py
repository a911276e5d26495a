"""The HTTP gateway of a fissile application."""
