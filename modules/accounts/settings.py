"""The settings of the accounts."""

from attrs import frozen

from fissile import ModuleSettings, setting

KIB = 1024
_KIB_PER_LANE = 8


@frozen
class AccountsSettings(ModuleSettings):
    """How long what is valid, and what a guess costs.

    Raises:
        ValueError: They do not fit together.
    """

    issuer: str = setting("accounts", "Who issues access tokens (iss); FISSILE_JWT_ISSUER of the gateway is the same.")
    audience: str = setting(
        "playground", "For whom they are (aud); one of FISSILE_JWT_AUDIENCE of the gateway is the same."
    )
    admins: tuple[str, ...] = setting((), "The names whose accounts are admins from when they are made.")
    # Passwords
    argon2_memory_kib: int = setting(19 * KIB, "The memory that hashing a password takes, in KiB.", at_least=8)
    argon2_passes: int = setting(2, "How often hashing goes over that memory.", at_least=1)
    argon2_lanes: int = setting(1, "In how many lanes it is hashed.", at_least=1)
    hashes_at_once: int = setting(2, "How many passwords are hashed at a time; more wait.", at_least=1)
    attempts: int = setting(
        10,
        "How many passwords of an account may be wrong within the window: of strangers, of each device, of who is signed in.",
        at_least=1,
    )
    attempts_window_s: float = setting(
        300.0, "The window, in seconds; who was wrong so often waits so long.", at_least=1
    )
    # Sessions
    access_token_s: float = setting(600.0, "How long an access token is valid, in seconds.", at_least=1)
    session_idle_s: float = setting(14 * 86_400.0, "How long a session lasts that is not gone on with.", at_least=1)
    session_s: float = setting(90 * 86_400.0, "How long a session lasts at most, in seconds.", at_least=1)
    refresh_leeway_s: float = setting(
        10.0,
        "For how long a spent refresh token gets the same successor, in seconds, before it ends its session; 0: at once.",
        at_least=0,
    )
    # API tokens
    tokens: int = setting(20, "How many API tokens somebody may have.", at_least=1)
    # Keys
    key_age_s: float = setting(30 * 86_400.0, "After how long another key signs access tokens, in seconds.", at_least=1)
    key_lead_s: float = setting(
        1200.0,
        "How long a new key is published before it signs, in seconds: longer than gateways keep keys (FISSILE_JWKS_MAX_AGE_S).",
        at_least=0,
    )
    care_s: float = setting(
        60.0, "How often what has expired is removed, and keys are looked after, in seconds.", at_least=1
    )

    def __attrs_post_init__(self) -> None:
        if self.key_lead_s >= self.key_age_s:
            raise ValueError(
                f"key_lead_s is {self.key_lead_s:g} and key_age_s {self.key_age_s:g}; a key has to sign for longer than it waits"
            )
        if self.argon2_memory_kib < _KIB_PER_LANE * self.argon2_lanes:
            raise ValueError(f"argon2_memory_kib has to be {_KIB_PER_LANE} for each of argon2_lanes, or more")
