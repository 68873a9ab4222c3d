"""System checks of the whole: their ids begin with mqadmin."""

import ipaddress
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Error, register
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

from core.encryption import check_key


@register("security")
def encryption_keys(**_kwargs: Any) -> list[CheckMessage]:
    """E001, E002, W001: stored credentials need keys that are ours to keep."""
    how = "Make one with `manage.py rotate_encryption_keys --new-key`, keep it as safe as the database itself; `make run` does it for you."
    if not settings.ENCRYPTION_KEYS:
        return [Error("MQADMIN_ENCRYPTION_KEYS is not set: no credential can be stored.", hint=how, id="mqadmin.E001")]
    try:
        for key in settings.ENCRYPTION_KEYS:
            check_key(key)
    except ImproperlyConfigured as error:
        return [Error(str(error), hint=how, id="mqadmin.E002")]
    if settings.ENCRYPTION_KEYS_DERIVED:
        return [
            checks.Warning(
                "MQADMIN_ENCRYPTION_KEYS is not set: stored credentials are sealed with a key made from MQADMIN_SECRET_KEY (debug only).",
                hint=how,
                id="mqadmin.W001",
            )
        ]
    return []


@register("security")
def outbound_rule(**_kwargs: Any) -> list[CheckMessage]:
    """E003: an entry that is neither network nor name would silently allow nothing."""
    from core.outbound import parse_allowed  # with an HTTP client behind it, which most processes never need

    try:
        parse_allowed(settings.OUTBOUND_ALLOW)
    except ValueError as error:
        return [Error(f"MQADMIN_OUTBOUND_ALLOW: {error}", hint="For example 10.1.0.0/16,hooks.example.com,.example.org", id="mqadmin.E003")]
    return []


@register("security")
def addresses(**_kwargs: Any) -> list[CheckMessage]:
    """E004, W002, W003: names, HTTPS, and whose word about addresses is taken."""
    found: list[CheckMessage] = []
    for entry in settings.TRUSTED_PROXIES:
        try:
            ipaddress.ip_network(entry.strip())
        except ValueError:
            text = f"MQADMIN_TRUSTED_PROXIES: “{entry}” is not a network."
            found.append(Error(text, hint="For example 10.1.0.0/24,10.2.0.7", id="mqadmin.E004"))
    public = not set(settings.ALLOWED_HOSTS) <= {*settings.LOOPBACK_HOSTS, ".localhost", "testserver"}
    if public and not settings.HTTPS and not settings.DEBUG:
        how = "Take MQADMIN_HTTPS=false away, and put a proxy with TLS in front that sets X-Forwarded-Proto."
        text = "Passwords and sessions travel unencrypted: MQADMIN_HTTPS is false while others may reach mqadmin."
        found.append(checks.Warning(text, hint=how, id="mqadmin.W002"))
    if "*" in settings.ALLOWED_HOSTS and not settings.DEBUG:
        how = "Name the hosts: whoever chooses the Host header chooses where links in mails lead."
        found.append(checks.Warning("MQADMIN_ALLOWED_HOSTS allows every name.", hint=how, id="mqadmin.W003"))
    return found


@register("security")
def zookeeper_access(**_kwargs: Any) -> list[CheckMessage]:
    """E023: credentials, ACL or certificates for ZooKeeper that no registrar could use."""
    from registry import protection  # every process loads this module

    try:
        protection.from_settings()
    except ValueError as error:
        how = "ZOOKEEPER_AUTH=user:password, ZOOKEEPER_ACL=protected or open, ZOOKEEPER_TLS_CA, _CERT and _KEY name PEM files."
        return [Error(str(error), hint=how, id="mqadmin.E023")]
    return []


@register("security")
def registry_roots(**_kwargs: Any) -> list[CheckMessage]:
    """E024: roots of service registries that registrars cannot follow."""
    from registry import discovery_layouts

    try:
        discovery_layouts.trees(settings.REGISTRY_DUBBO, settings.REGISTRY_MESSAGES, settings.REGISTRY_JOBS)
    except ValueError as error:
        how = "MQADMIN_REGISTRY_DUBBO, _MESSAGES and _JOBS name nodes beside mqadmin's own, none of them inside another: /dubbo,/jobs/shop"
        return [Error(str(error), hint=how, id="mqadmin.E024")]
    return []


@register("database", deploy=True)
def audit_search(*, databases: Sequence[str] | None = None, **_kwargs: Any) -> list[CheckMessage]:
    """W015: without trigrams a search of the audit reads it entry by entry."""
    from core.audit.search import INDEX

    if not databases or "default" not in databases:
        return []
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass('audit_auditentry') IS NULL OR to_regclass('audit_search') IS NOT NULL")
        if cursor.fetchone()[0]:
            return []
    how = f"As a role that may: CREATE EXTENSION pg_trgm; then: {INDEX};"
    return [checks.Warning("The audit's search has no index: the extension pg_trgm is missing.", hint=how, id="mqadmin.W015")]
