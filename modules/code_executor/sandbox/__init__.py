"""Sandboxes for programs of strangers.

`choose` opens the strongest one of this machine. All share one interface, `Sandbox`, and one table of `languages`.
"""

from ._base import OnOutput as OnOutput
from ._base import Sandbox as Sandbox
from ._builds import Builds as Builds
from ._choose import Kind as Kind
from ._choose import choose as choose
from ._model import Limits as Limits
from ._model import NoSandbox as NoSandbox
from ._model import Outcome as Outcome
from ._model import Program as Program
from ._model import Result as Result
from ._model import SandboxBusy as SandboxBusy
from ._model import SandboxError as SandboxError
from ._model import Stream as Stream
from ._model import UnknownLanguage as UnknownLanguage
