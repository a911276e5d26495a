"""Runs programs of strangers and reports what they did."""
