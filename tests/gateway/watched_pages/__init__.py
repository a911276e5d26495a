"""Routes that show topics which are not public."""
