"""The modules of this application."""
