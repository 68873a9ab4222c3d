"""The WSGI application that Granian serves."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mqadmin.settings")
os.environ.setdefault("MQADMIN_DB_POOL_SIZE", "24")

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()
