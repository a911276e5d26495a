"""Programming challenges with their hidden test cases."""
