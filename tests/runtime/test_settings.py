"""Settings: read once, each value with its origin, the strongest source first, all faults together."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import attrs
import pytest
from attrs import field, frozen

from fissile import ModuleSettings, Settings, StartupFailed, secret, setting
from fissile._settings import MASK, Source, Sources, convert, load, read_toml, variable_name


@frozen
class Tuning(ModuleSettings):
    size: int = setting(1, "How large.")
    ratio: float = setting(0.5, "How much.")
    mode: Literal["slow", "quick"] = setting("slow", "How.")
    is_on: bool = setting(False, "Whether.")
    names: tuple[str, ...] = setting((), "Which.")
    token: str = secret("", "What opens the door.")


@frozen
class Bounded(ModuleSettings):
    threads: int = setting(4, "How many threads.", at_least=1)
    pause_s: float = setting(1.0, "How long, in seconds.", at_least=0.5)


@frozen
class Needed(ModuleSettings):
    limit: int
    name: str = setting("x", "What it is called.")


@frozen
class Careful(ModuleSettings):
    size: int = field(default=1)

    def __attrs_post_init__(self) -> None:
        if self.size < 1:
            raise ValueError("The size has to be positive")


SOURCES = ("command line", "environment", ".env.local", ".env", "fissile.toml")


def sources_of(folder: Path, places: set[str]) -> Sources:
    """All sources, of which those named set the size to their own position."""
    number = {place: str(position + 10) for position, place in enumerate(SOURCES)}
    for name in (".env.local", ".env"):
        if name in places:
            (folder / name).write_text(f"FISSILE_SHOP_SIZE={number[name]}\n")
    return Sources.read(
        folder,
        command_line={"FISSILE_SHOP_SIZE": number["command line"]} if "command line" in places else {},
        environment={"FISSILE_SHOP_SIZE": number["environment"]} if "environment" in places else {"HOME": "/"},
        toml={"settings": {"shop": {"size": int(number["fissile.toml"])}}} if "fissile.toml" in places else {},
        toml_name="fissile.toml",
    )


@pytest.mark.parametrize("strongest", range(len(SOURCES)))
def test_the_stronger_source_wins_and_is_named_as_the_origin(tmp_path: Path, strongest: int) -> None:
    values, origins = load(Tuning, sources_of(tmp_path, set(SOURCES[strongest:])), "shop")
    (origin,) = [each for each in origins if each.variable == "FISSILE_SHOP_SIZE"]
    assert values.size == strongest + 10
    assert (origin.value, origin.source, origin.help) == (strongest + 10, SOURCES[strongest], "How large.")


def test_what_is_set_nowhere_has_its_default_and_says_so(tmp_path: Path) -> None:
    values, origins = load(Tuning, sources_of(tmp_path, set()), "shop")
    assert values == Tuning()
    assert {origin.source for origin in origins} == {"default"}


def test_an_empty_variable_counts_as_not_set() -> None:
    sources = Sources((Source("environment", {"FISSILE_SHOP_SIZE": ""}), Source(".env", {"FISSILE_SHOP_SIZE": "7"})))
    assert load(Tuning, sources, "shop")[0].size == 7


@pytest.mark.parametrize(
    ("name", "raw", "value"),
    [
        ("size", "12", 12),
        ("ratio", "0.25", 0.25),
        ("mode", "quick", "quick"),
        ("is_on", "true", True),
        ("is_on", "0", False),
    ],
)
def test_values_are_converted_to_the_type_of_their_field(name: str, raw: str, value: object) -> None:
    sources = Sources((Source("environment", {variable_name(name, "shop"): raw}),))
    assert getattr(load(Tuning, sources, "shop")[0], name) == value


def test_a_secret_is_masked_in_its_origin_in_the_settings_and_in_faults() -> None:
    sources = Sources((Source("environment", {"FISSILE_SHOP_TOKEN": "open sesame"}),))
    values, origins = load(Tuning, sources, "shop")
    (origin,) = [each for each in origins if each.is_secret]
    assert values.token == "open sesame"
    assert origin.shown() == MASK
    assert "open sesame" not in repr(values)

    @frozen
    class Pin(ModuleSettings):
        pin: int = secret(0, "A number.")

    with pytest.raises(StartupFailed) as raised:
        load(Pin, Sources((Source("environment", {"FISSILE_SHOP_PIN": "very secret"}),)), "shop")
    assert "very secret" not in str(raised.value)


def test_a_secret_that_is_not_set_is_shown_as_empty() -> None:
    _, origins = load(Tuning, Sources(), "shop")
    assert next(each for each in origins if each.is_secret).shown() == ""


def test_all_faults_are_told_together_each_with_variable_source_and_help() -> None:
    sources = Sources((Source("environment", {"FISSILE_SHOP_SIZE": "large", "FISSILE_SHOP_MODE": "odd"}),))
    with pytest.raises(StartupFailed) as raised:
        load(Tuning, sources, "shop")
    faults = raised.value.faults
    assert [fault.where for fault in faults] == ["environment", "environment"]
    assert faults[0].what.startswith("FISSILE_SHOP_SIZE='large' cannot be used: ")
    assert faults[1].what.startswith("FISSILE_SHOP_MODE='odd' cannot be used: ")
    assert [fault.cure for fault in faults] == ["How large.", "How."]


def test_a_missing_setting_and_a_wrong_one_are_told_together() -> None:
    @frozen
    class Both(ModuleSettings):
        limit: int
        size: int = setting(1, "How large.")

    with pytest.raises(StartupFailed) as raised:
        load(Both, Sources((Source(".env", {"FISSILE_SHOP_SIZE": "x"}),)), "shop")
    assert [fault.what.split(" ")[0] for fault in raised.value.faults] == [
        "FISSILE_SHOP_LIMIT",
        "FISSILE_SHOP_SIZE='x'",
    ]


def test_a_class_may_refuse_its_values() -> None:
    with pytest.raises(StartupFailed, match="The size has to be positive"):
        load(Careful, Sources((Source("environment", {"FISSILE_SHOP_SIZE": "0"}),)), "shop")


def test_variables_that_nobody_knows_are_found() -> None:
    sources = Sources((Source("environment", {"FISSILE_SHOP_SIZ": "1", "FISSILE_BUS": "memory://", "PATH": "/bin"}),))
    assert list(sources.unknown({"FISSILE_BUS"})) == [("FISSILE_SHOP_SIZ", "environment")]


@pytest.mark.parametrize(
    ("field_name", "module", "variable"),
    [
        ("wall_s", "code-executor", "FISSILE_CODE_EXECUTOR_WALL_S"),
        ("bus", None, "FISSILE_BUS"),
        ("port", "gateway", "FISSILE_PORT"),
    ],
)
def test_variables_are_called_after_module_and_field(field_name: str, module: str | None, variable: str) -> None:
    assert variable_name(field_name, module) == variable


def test_every_setting_of_the_runtime_says_what_it_means_and_has_a_default() -> None:
    _, origins = load(Settings, Sources())
    assert all(origin.help.endswith(".") for origin in origins)
    assert {origin.source for origin in origins} == {"default"}


def test_settings_of_the_runtime_are_read_from_the_file_of_the_application(tmp_path: Path) -> None:
    file = tmp_path / "fissile.toml"
    file.write_text('name = "shop"\nmodules = []\nbackend = "trio"\nwindow = 3\n[placements.split]\na = ["b"]\n')
    sources = Sources.read(tmp_path, environment={"X": "y"}, toml=read_toml(file), toml_name="fissile.toml")
    values, origins = load(Settings, sources)
    assert (values.backend, values.window) == ("trio", 3)
    assert {each.variable for each in origins if each.source == "fissile.toml"} == {"FISSILE_BACKEND", "FISSILE_WINDOW"}


def test_a_broken_file_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "fissile.toml"
    file.write_text("name = ")
    with pytest.raises(StartupFailed, match="It is not valid TOML") as raised:
        read_toml(file)
    assert raised.value.faults[0].where == str(file)


def test_a_number_below_its_bound_is_a_fault_that_names_the_variable_and_the_bound() -> None:
    values = {"FISSILE_SHOP_THREADS": "0", "FISSILE_SHOP_PAUSE_S": "nan"}
    with pytest.raises(StartupFailed) as raised:
        load(Bounded, Sources((Source("environment", values),)), "shop")
    assert [fault.what for fault in raised.value.faults] == [
        "FISSILE_SHOP_THREADS='0' cannot be used: it has to be at least 1.",
        "FISSILE_SHOP_PAUSE_S='nan' cannot be used: it has to be at least 0.5.",
    ]
    assert raised.value.faults[0].cure == "How many threads."


def test_the_bound_itself_is_accepted() -> None:
    values = {"FISSILE_SHOP_THREADS": "1", "FISSILE_SHOP_PAUSE_S": "0.5"}
    assert load(Bounded, Sources((Source("environment", values),)), "shop")[0] == Bounded(threads=1, pause_s=0.5)


@pytest.mark.parametrize(
    "name",
    [
        "database_threads",
        "database_connections",
        "threads",
        "partitions",
        "window",
        "calls_in_flight",
        "commands_running",
        "sagas_running",
        "inbox_retention_s",
        "call_timeout_s",
        "database_lock_s",
        "sqlite_session_s",
    ],
)
def test_no_setting_of_the_runtime_that_has_to_be_positive_can_be_zero(name: str) -> None:
    variable = variable_name(name)
    with pytest.raises(StartupFailed, match=f"{variable}='0' cannot be used: it has to be at least"):
        load(Settings, Sources((Source("environment", {variable: "0"}),)))
    with pytest.raises(ValueError, match=f"{name}=0 cannot be used: it has to be at least"):
        Settings(**{name: 0})  # type: ignore[arg-type]  # settings of several types


def test_every_number_among_the_settings_of_the_runtime_has_a_bound() -> None:
    numbers = [each for each in attrs.fields(Settings) if isinstance(each.default, (int, float))]
    unbounded = [each.name for each in numbers if "at_least" not in each.metadata]
    assert unbounded == ["database_migrate"]  # which is yes or no


def test_the_gateway_has_a_table_of_its_own(tmp_path: Path) -> None:
    routes = {"orders.place-order": {"timeout_s": 5}}
    table = {"gateway": {"routes": routes, "rate_limit": "600/minute"}}
    sources = Sources.read(tmp_path, environment={}, toml=table)
    assert sources.find("FISSILE_ROUTE_LIMITS") == (routes, "pyproject.toml")
    assert sources.find("FISSILE_RATE_LIMIT") == ("600/minute", "pyproject.toml")


def test_a_mapping_is_read_from_json() -> None:
    assert convert('{"a": 1}', Mapping[str, int]) == {"a": 1}
    with pytest.raises(ValueError, match="it is not JSON"):
        convert("{", Mapping[str, int])
    with pytest.raises(ValueError, match="expected `int`"):
        convert('{"a": "b"}', Mapping[str, int])
