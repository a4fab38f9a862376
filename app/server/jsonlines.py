"""Structured logs: one JSON object a line on stderr."""

import json
import logging
import sys
from asyncio import CancelledError


class JsonLines(logging.Formatter):
    """A record as one line of JSON, its exception included."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the time, level, logger, message and, for an exception, its traceback."""
        line = {
            "at": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)

    @classmethod
    def handler(cls) -> logging.Handler:
        """Return a handler that writes such lines to stderr."""
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(cls())
        handler.addFilter(_is_not_cut_stream)
        return handler


def configure_logging(level: str) -> None:
    """Write this process's log as JSON lines, from a level on."""
    logging.basicConfig(level=level.upper(), handlers=[JsonLines.handler()])
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # Its warnings are about broken requests: clients could fill the log with them.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def _is_not_cut_stream(record: logging.LogRecord) -> bool:
    """Return False for what uvicorn calls errors when the end of the server cuts open streams."""
    raised = record.exc_info[1] if record.exc_info else None
    return not (
        isinstance(raised, CancelledError) or str(record.msg).startswith("Cancel %s running task")
    )
