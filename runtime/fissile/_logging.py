"""The set-up of logs, in one place: stdlib logging everywhere, as coloured lines for a developer or one JSON object a line.

Both show the same fields: what a record carries in `extra=`, and for a record made while a message is being handled its `module`,
`message`, `message_id`, `trace_id` and `span_id`. JSON is written here and not by structlog, because importing structlog imports rich, which
takes longer than
the rest of the start; structlog renders the lines for people, and is imported with the first of them. Loggers that modules get from
structlog go through stdlib logging, and so look the same.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Literal, cast

import msgspec

Style = Literal["console", "json"]

_STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}
_RESERVED = {"time", "level", "logger", "event", "exception"}
_OWN_PREFIX = "fissile_"  # `module` is taken in a log record, so the library says `fissile_module`


def set_up_logging(
    style: Style,
    *,
    level: int = logging.INFO,
    verbose: bool = False,
    color: bool = False,
    traces: bool = True,
    fields: Mapping[str, Any] | None = None,
) -> None:
    """Send all logs to stderr.

    Args:
        style: Lines for people, or JSON.
        level: What is at least logged.
        verbose: Whether the library tells its details, and errors are shown with their whole tree.
        color: Whether lines have colours.
        traces: Whether errors are shown with their traceback.
        fields: What stands in every line of JSON; Any: what JSON can say.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter(verbose=verbose, fields=fields) if style == "json" else ConsoleFormatter(verbose, color, traces)
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("fissile").setLevel(logging.DEBUG if verbose else logging.NOTSET)
    # At each start of a developer's process it would tell of every migration on a scratch database.
    logging.getLogger("alembic").setLevel(logging.NOTSET if verbose else logging.WARNING)
    logging.captureWarnings(capture=True)


def adopt_structlog() -> None:
    """Let the loggers of modules that use structlog go through stdlib logging; does nothing where nobody uses it.

    A module that has configured structlog itself is left alone.
    """
    if "structlog" not in sys.modules:
        return
    import structlog

    if structlog.is_configured():
        return
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def fields_of_record(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of a record: those of the message being handled, then its own."""
    fields = _message_in_hand()
    for name, value in vars(record).items():
        if name not in _STANDARD:
            name = name.removeprefix(_OWN_PREFIX)  # noqa: PLW2901 -- the name as it is shown
            fields[f"extra_{name}" if name in _RESERVED else name] = value
    return fields


def _message_in_hand() -> dict[str, Any]:
    tracing = sys.modules.get("fissile._trace")
    if tracing is None:
        return {}
    trace = tracing.current_trace()
    fields: dict[str, Any] = tracing.trace_fields(trace)
    bus = tracing.current_bus.get(None)
    if bus is None or bus._handler is None:
        return fields
    return {"module": bus._handler.module, "message": bus._handler.name, "message_id": bus._message_id(), **fields}


# --- errors ----------------------------------------------------------------------------------------------------------


def leaves(error: BaseException) -> list[BaseException]:
    """Return the errors inside a group, however deep; the error itself where it is no group."""
    if isinstance(error, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", error)
        return [leaf for inner in group.exceptions for leaf in leaves(inner)]
    return [error]


def format_error(error: BaseException, *, tree: bool = False) -> str:
    """Return an error with its traceback.

    Args:
        error: The error.
        tree: Whether groups are shown as such. Otherwise the errors in them follow one another, the first one being the root.
    """
    if tree:
        return "".join(traceback.format_exception(error)).rstrip("\n")
    return "\n".join(_format_one(leaf, set()) for leaf in leaves(error))


def _format_one(error: BaseException, seen: set[int]) -> str:
    seen.add(id(error))
    text = "".join(traceback.format_exception(error, chain=False)).rstrip("\n")
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is None or id(before) in seen:
        return text
    how = "was the cause of" if error.__cause__ is not None else "was being handled when there came"
    earlier = "\n".join(_format_one(leaf, seen) for leaf in leaves(before) if id(leaf) not in seen)
    return f"{earlier}\n\nThe error above {how}:\n\n{text}" if earlier else text


# --- formatters ------------------------------------------------------------------------------------------------------


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, event, then the fields, then the exception as text."""

    def __init__(self, *, verbose: bool = False, fields: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._verbose = verbose
        self._fields = dict(fields or {})
        self._second = (0, "")  # the newest one, and how it is written

    def _time(self, created: float) -> str:
        second, text = self._second
        if second != int(created):
            second = int(created)
            text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            self._second = second, text
        return f"{text}.{int((created - second) * 1000):03}Z"

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as one line of JSON."""
        line: dict[str, Any] = {
            "time": self._time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **self._fields,
            **fields_of_record(record),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["exception"] = format_error(record.exc_info[1], tree=self._verbose)
        if record.stack_info:
            line["stack"] = record.stack_info
        try:
            return msgspec.json.encode(line, enc_hook=repr).decode()
        except (ValueError, TypeError, RecursionError, OverflowError):
            # A lone surrogate, a key that is no string, a list in itself: whatever a record holds, its line is written.
            return json.dumps({name: value if isinstance(value, str) else repr(value) for name, value in line.items()})


class ConsoleFormatter(logging.Formatter):
    """Lines for people, rendered by structlog, which is imported with the first one."""

    def __init__(self, verbose: bool, color: bool, traces: bool) -> None:  # noqa: FBT001 -- one place calls it
        super().__init__()
        self._verbose, self._color, self._traces = verbose, color, traces
        self._formatter: logging.Formatter | None = None

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as a line, and the traceback of its error on the lines below it."""
        if self._formatter is None:
            self._formatter = self._build()
        return self._formatter.format(record)

    def _build(self) -> logging.Formatter:
        import structlog

        def add_fields(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
            record: logging.LogRecord = event["_record"]
            event.pop("exc_info", None)
            event["level"], event["logger"] = record.levelname.lower(), record.name
            event.update(fields_of_record(record))
            error = record.exc_info[1] if record.exc_info else None
            if error is not None and self._traces:
                event["exception"] = format_error(error, tree=self._verbose)
            return event

        return structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[add_fields],
            processors=[
                structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.dev.ConsoleRenderer(
                    colors=self._color,
                    sort_keys=False,
                    exception_formatter=structlog.dev.plain_traceback,
                    pad_event_to=0,
                ),
            ],
        )
