"""What does not belong into the log."""

import logging


class WithoutProbes(logging.Filter):
    """A readiness probe that says 503 is an answer, not an error; it comes several times a second."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what the request log says about /readyz."""
        return "/readyz" not in record.getMessage()
