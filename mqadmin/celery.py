"""The Celery application; a prefork child never inherits a database connection."""

import os
from typing import Any

import structlog
from celery import Celery, Task
from celery.signals import setup_logging, worker_process_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")


class ContextTask(Task):  # type: ignore[type-arg]
    """A task that says in the audit and in the log which one it was; what it does in a person's name says so itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        from core.request_context import RequestContext, current

        context = RequestContext(request_id=f"task:{self.request.id or ''}"[:64], credential=f"task:{self.name}")
        token = current.set(context)
        try:
            with structlog.contextvars.bound_contextvars(task=self.name, request_id=context.request_id):
                return super().__call__(*args, **kwargs)
        finally:
            current.reset(token)


app: "Celery[Task[Any, Any]]" = Celery("mqadmin", task_cls=ContextTask)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def keep_our_logging(**_kwargs: Any) -> None:
    """Celery leaves logging to Django's settings when somebody listens here."""


@worker_process_init.connect
def drop_inherited_connections(**_kwargs: Any) -> None:
    """Forget what the parent had open: two processes on one connection corrupt both."""
    from django.db import connections

    for connection in connections.all(initialized_only=True):
        connection.connection = None
