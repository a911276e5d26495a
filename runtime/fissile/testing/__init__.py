"""What tests of an application need and production does not."""

from fissile.testing._clock import ManualClock as ManualClock
from fissile.testing._fakes import Fake as Fake
from fissile.testing._fakes import fake as fake
from fissile.testing._identities import user as user
from fissile.testing._placements import PLACEMENTS as PLACEMENTS
from fissile.testing._placements import Placement as Placement
from fissile.testing._placements import placed as placed
