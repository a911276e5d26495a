"""The command line of fissile. Data goes to stdout, everything else to stderr; `_exit.py` documents the exit codes."""
