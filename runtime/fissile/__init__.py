"""Modules that run together in one process or apart over Kafka, by configuration, with the same meaning."""

from fissile._app import App as App
from fissile._bus import Bus as Bus, Caller as Caller, Queries as Queries
from fissile._clock import Clock as Clock, Environment as Environment, Ids as Ids
from fissile._contract import Contract as Contract, Topic as Topic
from fissile._delivery.dead_letters import DeadLetter as DeadLetter
from fissile._errors import (
    CallError as CallError,
    CallRefused as CallRefused,
    DeadlineExceeded as DeadlineExceeded,
    Fault as Fault,
    FissileError as FissileError,
    HandlerFailed as HandlerFailed,
    InvalidMessage as InvalidMessage,
    MessageTooLarge as MessageTooLarge,
    Overloaded as Overloaded,
    PositionLost as PositionLost,
    StartupFailed as StartupFailed,
    Unavailable as Unavailable,
    UnknownMessage as UnknownMessage,
)
from fissile._local import forbid_calls as forbid_calls
from fissile._messages import Command as Command, DeclaredError as DeclaredError, Event as Event, Query as Query
from fissile._module import Handling as Handling, Middleware as Middleware, Module as Module
from fissile._process import Check as Check, Lifespan as Lifespan, Process as Process
from fissile._retry import Retry as Retry
from fissile._settings import ModuleSettings as ModuleSettings, Settings as Settings, secret as secret, setting as setting
from fissile._tap import Tap as Tap, Tapped as Tapped
