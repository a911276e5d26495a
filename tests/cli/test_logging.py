"""The two ways in which a log record is shown."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from fissile._logging import ConsoleFormatter, JsonFormatter, format_error, set_up_logging


def record(message: str, *arguments: object, error: BaseException | None = None, **extra: Any) -> logging.LogRecord:
    """A log record of a module."""
    found = logging.makeLogRecord(
        {"name": "shop", "levelno": logging.ERROR, "levelname": "ERROR", "msg": message, "args": arguments}
    )
    found.exc_info = None if error is None else (type(error), error, error.__traceback__)
    vars(found).update(extra)
    return found


def caught(error: Exception, cause: Exception | None = None) -> Exception:
    """An error with a traceback."""
    try:
        raise error from cause
    except Exception as raised:  # noqa: BLE001
        return raised


def test_json_has_the_record_and_its_fields() -> None:
    line = json.loads(JsonFormatter().format(record("done in %d s", 3, fissile_module="orders", count=2, level="mine")))
    assert line["event"] == "done in 3 s"
    assert (line["level"], line["logger"], line["module"], line["count"], line["extra_level"]) == (
        "error",
        "shop",
        "orders",
        2,
        "mine",
    )


@pytest.mark.parametrize("value", [object(), {1: {2}}, "\ud800", float("nan"), 2**80, b"\xff"])
def test_whatever_a_record_holds_is_one_line_of_json(value: object) -> None:
    line = JsonFormatter().format(record("x", value=value))
    assert "\n" not in line
    assert "value" in json.loads(line)


def test_a_list_in_itself_is_one_line_of_json() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert json.loads(JsonFormatter().format(record("x", value=endless)))["event"] == "x"


def test_an_error_is_text_in_json() -> None:
    line = json.loads(JsonFormatter().format(record("failed", error=caught(ValueError("no")))))
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("ValueError: no")


def test_a_group_is_shown_as_the_errors_in_it_unless_the_tree_is_wanted() -> None:
    group = caught(ExceptionGroup("tasks", [caught(ValueError("one")), caught(TypeError("two"))]))
    text = format_error(group)
    assert "Group" not in text
    assert text.index("ValueError: one") < text.index("TypeError: two")
    assert "ExceptionGroup: tasks" in format_error(group, tree=True)


def test_a_cause_that_is_a_group_is_unfolded_too() -> None:
    text = format_error(caught(RuntimeError("last"), caught(ExceptionGroup("tasks", [caught(ValueError("first"))]))))
    assert "Group" not in text
    assert text.index("ValueError: first") < text.index("was the cause of") < text.index("RuntimeError: last")


def test_lines_for_people_show_fields_and_tracebacks() -> None:
    formatter = ConsoleFormatter(verbose=False, color=False, traces=True)
    text = formatter.format(record("failed", error=caught(ValueError("no")), fissile_module="orders"))
    first, *rest = text.splitlines()
    assert "[error" in first
    assert "failed" in first
    assert "module=orders" in first
    assert rest[-1] == "ValueError: no"
    assert "Traceback" not in ConsoleFormatter(verbose=False, color=False, traces=False).format(
        record("x", error=caught(ValueError()))
    )


@pytest.mark.parametrize("verbose", [False, True])
def test_alembic_tells_its_steps_only_where_details_are_wanted(
    monkeypatch: pytest.MonkeyPatch, *, verbose: bool
) -> None:
    root, captures = logging.getLogger(), logging.captureWarnings
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    monkeypatch.setattr(logging, "captureWarnings", lambda **_: None)
    try:
        set_up_logging("console", verbose=verbose)
        logger = logging.getLogger("alembic.runtime.migration")
        assert logger.isEnabledFor(logging.INFO) is verbose
        assert logger.isEnabledFor(logging.WARNING)
    finally:
        for name in ("alembic", "fissile"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    assert captures is not logging.captureWarnings


def test_structlog_loggers_go_through_the_same_handler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import structlog

    from fissile._logging import adopt_structlog

    structlog.reset_defaults()
    try:
        adopt_structlog()
        structlog.get_logger("shop.stock").warning("low", sku="A1")
        line = json.loads(JsonFormatter().format(caplog.records[-1]))
        assert (line["event"], line["sku"], line["logger"]) == ("low", "A1", "shop.stock")
    finally:
        structlog.reset_defaults()
    monkeypatch.delitem(sys.modules, "structlog")
    adopt_structlog()
    assert "structlog" not in sys.modules
