"""Modules that run together in one process or apart over Kafka, by configuration, with the same meaning."""

from fissile._app import App as App
from fissile._bus import Bus as Bus
from fissile._bus import Caller as Caller
from fissile._bus import Queries as Queries
from fissile._clock import Clock as Clock
from fissile._clock import Environment as Environment
from fissile._clock import Ids as Ids
from fissile._connect import client as client
from fissile._connect import connect as connect
from fissile._contract import Contract as Contract
from fissile._contract import Topic as Topic
from fissile._delivery.dead_letters import DeadLetter as DeadLetter
from fissile._errors import (
    CallError as CallError,
)
from fissile._errors import (
    CallRefused as CallRefused,
)
from fissile._errors import (
    DeadlineExceeded as DeadlineExceeded,
)
from fissile._errors import (
    Fault as Fault,
)
from fissile._errors import (
    FissileError as FissileError,
)
from fissile._errors import (
    Forbidden as Forbidden,
)
from fissile._errors import (
    HandlerFailed as HandlerFailed,
)
from fissile._errors import (
    InvalidMessage as InvalidMessage,
)
from fissile._errors import (
    MessageTooLarge as MessageTooLarge,
)
from fissile._errors import (
    Overloaded as Overloaded,
)
from fissile._errors import (
    PositionLost as PositionLost,
)
from fissile._errors import (
    StartupFailed as StartupFailed,
)
from fissile._errors import (
    Unauthenticated as Unauthenticated,
)
from fissile._errors import (
    Unavailable as Unavailable,
)
from fissile._errors import (
    UnknownMessage as UnknownMessage,
)
from fissile._forbidden_calls import forbid_calls as forbid_calls
from fissile._gather import Missing as Missing
from fissile._gather import Part as Part
from fissile._gather import Parts as Parts
from fissile._gather import gather as gather
from fissile._identity import Identity as Identity
from fissile._messages import Command as Command
from fissile._messages import DeclaredError as DeclaredError
from fissile._messages import Event as Event
from fissile._messages import Query as Query
from fissile._metrics import Metric as Metric
from fissile._metrics import Metrics as Metrics
from fissile._metrics import Sample as Sample
from fissile._module import Handling as Handling
from fissile._module import Middleware as Middleware
from fissile._module import Module as Module
from fissile._process import Check as Check
from fissile._process import Lifespan as Lifespan
from fissile._process import Process as Process
from fissile._replay import Replay as Replay
from fissile._retry import Retry as Retry
from fissile._settings import (
    ModuleSettings as ModuleSettings,
)
from fissile._settings import (
    Settings as Settings,
)
from fissile._settings import (
    secret as secret,
)
from fissile._settings import (
    setting as setting,
)
from fissile._tap import Tap as Tap
from fissile._tap import Tapped as Tapped
from fissile._trace import Trace as Trace
from fissile._trace import current_trace as current_trace
