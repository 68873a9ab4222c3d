"""The WSGI application without group commit: what the benchmark of single sends compares with."""

from mqadmin.wsgi import application  # isort: skip - first: it sets Django up

from messages import sending

sending._coalescer.send = sending._send_one  # type: ignore[method-assign,assignment]

__all__ = ["application"]
