"""A module with a database, for the rows of delivery."""
