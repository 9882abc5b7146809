"""Log lines on standard error, and the last net under them.

No code of ours writes a token or a key into a log. What a library might write passes
through `Redaction`, which takes out whatever looks like one.
"""

import logging
import logging.config
import re
from typing import Any

from oauthvault.middleware import current_request_id

_SECRET_SHAPES = re.compile(
    r"sk-ant-[A-Za-z0-9._~+/-]{6,}=*|ov[su]_[A-Za-z0-9_-]{10,}"
    r"|(?i:bearer)\s+[A-Za-z0-9._~+/-]{10,}=*"
    # The password in postgresql://user:password@host, redis://:password@host.
    r"|(?<=://)[^\s/@:]*:[^\s/@]+(?=@)"
)

# The statuses of refusals that say: later.
_CHOSEN = (409, 429, 502, 503)
_WRONG_HOST = "django.security.DisallowedHost"


def redact(text: str) -> str:
    """The text with everything in the shape of a token or a key replaced."""
    return _SECRET_SHAPES.sub("[redacted]", text)


class Redaction(logging.Formatter):
    """Formats a record, its arguments and its traceback, then redacts the whole."""

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = current_request_id.get()
        text = super().format(record)
        if record.name == _WRONG_HOST:
            # One line in place of a traceback, with the name that the setting has here.
            text = text.partition("\n")[0].replace("ALLOWED_HOSTS", "OAUTHVAULT_ALLOWED_HOSTS")
        return redact(text)


def is_news(record: logging.LogRecord) -> bool:
    """Not Django's line about every answer above 400 that we chose to give: a thousand
    callers who are told to come back in a second are no error each. Refusals are counted
    in the metrics; what is wrong behind one is logged where it is found. Drops nothing
    that has a traceback."""
    refused = getattr(record, "status_code", None) in _CHOSEN
    return not refused or record.exc_info is not None


def configure(options: dict[str, Any]) -> None:
    """Django's LOGGING_CONFIG: one handler, one format, one level."""
    logging.config.dictConfig(
        {
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {
                "line": {
                    "()": "oauthvault.logging.Redaction",
                    "format": "%(asctime)s %(levelname)-7s %(name)s [%(request_id)s] %(message)s",
                }
            },
            "filters": {"news": {"()": lambda: is_news}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
            "root": {"handlers": ["stderr"], "level": options.get("level", "INFO")},
            "loggers": {
                "django.request": {"filters": ["news"]},
                # httpx writes one line per request at INFO; the attempt record says more.
                "httpx": {"level": "WARNING"},
                "httpcore": {"level": "WARNING"},
                # Three lines for each sweep, and one about the broker that has no host name.
                "celery.beat": {"level": "WARNING"},
                "celery.worker.strategy": {"level": "WARNING"},
                "celery.app.trace": {"level": "WARNING"},
                "celery.worker.consumer.connection": {"level": "WARNING"},
                "kombu.connection": {"level": "ERROR"},
            },
        }
    )
