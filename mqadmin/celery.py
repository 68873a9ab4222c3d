"""The Celery application; a prefork child never inherits a database connection."""

import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_process_init

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")

app = Celery("mqadmin")
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
