"""Watches every request that any test makes: one that has changed rows of the control plane must have left an entry in the audit."""

import re

from django.db import connection
from django.test.client import ClientHandler

READS = {"GET", "HEAD", "OPTIONS"}
WRITE = re.compile(r'\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+"?(\w+)', re.IGNORECASE)
# The store itself is the record of what applications send and consume.
DATA_PLANE = re.compile(
    r"^/api/v1/(topics/[^/]+/(messages|half-messages(/open)?)|half-messages/\d+/(commit|rollback)|consumer-groups/[^/]+/(pull|acks|next)"
    r"|applications/[^/]+/epochs|transactions|clients(/[^/]+(/heartbeat)?)?)$"
)
# Rows that say how a request went and not what it changed.
BOOKKEEPING = re.compile(r"^(audit_|django_session|django_admin_log|accounts_personsession|accounts_nonce|axes_|core_idempotency|mq_|pg_)")


def missing(request, work):
    """The response, and the tables that changed without an entry."""
    changed = set()

    def watch(execute, sql, params, many, context):
        result = execute(sql, params, many, context)
        found = WRITE.match(sql) if isinstance(sql, str) else None
        if found and context["cursor"].rowcount > 0 and not BOOKKEEPING.match(found[1]) and not _only_used(sql):
            changed.add(found[1])
        return result

    with connection.execute_wrapper(watch):
        response = work()
    if not changed or response.status_code >= 400 or request.GET.get("dry_run") == "true":
        return response, set()
    from core.audit.models import AuditEntry

    entries = AuditEntry.objects.filter(request_id=response.headers.get("X-Request-ID", "-"))
    named = entries.exclude(address="").exclude(credential="") if request.path != "/admin/login/" else entries
    return response, set() if named.exists() else changed


def _only_used(sql):
    """When a token, a key or a session was last used, and when somebody last signed in."""
    return bool(re.search(r'SET "(last_used_at|active_at|last_login)" = ', sql)) and sql.count(" = ") <= 3


def install(monkeypatch):
    """Have the test client refuse what is not recorded."""
    real = ClientHandler.get_response

    def get_response(self, request):
        if request.method in READS or DATA_PLANE.match(request.path):
            return real(self, request)
        response, tables = missing(request, lambda: real(self, request))
        assert not tables, (
            f"{request.method} {request.path} changed {sorted(tables)} and left no entry with credential and address in the audit"
        )
        return response

    monkeypatch.setattr(ClientHandler, "get_response", get_response)
