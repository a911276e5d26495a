"""What tests of an application need and production does not."""

from fissile.testing._clock import ManualClock as ManualClock
