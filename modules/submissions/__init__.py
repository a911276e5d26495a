"""The submissions: programs that are judged by the cases of a challenge."""
