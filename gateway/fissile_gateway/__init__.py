"""The HTTP gateway of a fissile application: routes derived from contracts, next to the application's own.

Importing it is light: Quart and Hypercorn are imported when the gateway starts.
"""

from fissile_gateway._body import read_body as read_body
from fissile_gateway._composition import missing_notes as missing_notes
from fissile_gateway._context import current_bus as current_bus
from fissile_gateway._context import current_identity as current_identity
from fissile_gateway._context import current_process as current_process
from fissile_gateway._context import current_routes as current_routes
from fissile_gateway._context import requires as requires
from fissile_gateway._context import stream as stream
from fissile_gateway._gateway import Gateway as Gateway
from fissile_gateway._module import create_app as create_app
from fissile_gateway._module import module as module
from fissile_gateway._mounted import MountedGateway as MountedGateway
from fissile_gateway._mounts import MountFailed as MountFailed
from fissile_gateway._operation import operation as operation
from fissile_gateway._problems import Problem as Problem
from fissile_gateway._problems import ProblemError as ProblemError
from fissile_gateway._protection_settings import ProtectionSettings as ProtectionSettings
from fissile_gateway._protection_settings import RouteLimits as RouteLimits
from fissile_gateway._settings import GatewaySettings as GatewaySettings
