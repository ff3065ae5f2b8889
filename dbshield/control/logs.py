"""What dbshield says about itself: for people on a terminal, JSON lines elsewhere, always on standard error.

Standard output belongs to answers and, where it is asked for, to the audit. Libraries that use the standard library's logging are
said in the same form, from warnings up.

Law: on a terminal nothing that somebody else wrote is obeyed. The name that a client claims at a login is such a text.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from typing import Literal, TextIO, cast

import structlog

from dbshield.visible import visible, visible_lines

Level = Literal["debug", "info", "warning", "error"]
Format = Literal["auto", "console", "json"]


class _Unfailing:
    """A stream for logs. What cannot be written is lost: a full disk, or a pipe whose reader has gone, must not stop the work
    that the line tells of."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False


def configure_logging(*, level: Level = "info", format: Format = "auto", stream: TextIO | None = None) -> None:  # noqa: A002
    """Sets the form and the least level of the whole process; may be called again."""
    out = _Unfailing(stream if stream is not None else sys.stderr)
    people = format == "console" or (format == "auto" and out.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True)
        if not people
        else structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
    ]
    last: list[structlog.typing.Processor]
    if people:
        last = [_spelled_out, structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=_traceback)]
    else:
        # Without the frames' variables: one of them may be a password.
        tracebacks = structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False))
        last = [tracebacks, structlog.processors.JSONRenderer()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
        logger_factory=structlog.WriteLoggerFactory(file=cast(TextIO, out)),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[_without_internals, *last]))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


def _without_internals(
    logger: structlog.typing.WrappedLogger, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(logger, name, event)


def _spelled_out(
    _logger: structlog.typing.WrappedLogger, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    return {name: visible(value) if isinstance(value, str) else value for name, value in event.items()}


def _traceback(out: TextIO, error: structlog.typing.ExcInfo) -> None:
    written = io.StringIO()
    structlog.dev.plain_traceback(written, error)
    out.write("\n".join(visible_lines(written.getvalue())))
