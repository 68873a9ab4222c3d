"""The WSGI application without group commit: what the benchmark of single sends compares with."""

from messages import sending
from mqadmin.wsgi import application

sending._coalescer.send = sending._send_one  # type: ignore[method-assign,assignment]

__all__ = ["application"]
