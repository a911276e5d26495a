"""The leaderboard: who has solved what."""
