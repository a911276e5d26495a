"""The accounts: who people are, and what they may do."""
