"""The delivery engine: events, and commands that nobody waits for, from a log to their handlers.

One engine above all transports: `lifecycle.py` is what can happen to a delivery, `partition.py` what is in hand of a partition,
`consumer.py` moves records, `attempts.py` runs handlers and decides, `dead_letters.py` keeps what was given up.
"""
