"""Addresses of clusters, in the form that the clients of each broker kind read."""

import re

from django.utils.translation import gettext as _

from clusters.models import Kind
from core.errors import FieldError, Problem

# ZMS's Java client hands the string on to the broker's own client: Kafka wants commas, RocketMQ semicolons (znodes contract, part 1).
SEPARATOR = {Kind.KAFKA: ",", Kind.RABBITMQ: ",", Kind.ROCKETMQ: ";"}
_ENDPOINT = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:]{2,39}\]):(\d{1,5})")


def check_address(kind: str, address: str) -> str:
    """Return the address as it is published; raises `invalid_address` that names the part that is wrong."""
    if kind == Kind.BUILTIN:
        if address:
            raise Problem("invalid_address", _("The built-in store has no address."), errors=[FieldError("/address", _("Leave it empty."))])
        return ""
    return _checked(address, SEPARATOR[Kind(kind)], "/address")


def check_proxy_address(kind: str, address: str) -> str:
    """Return the address of a RocketMQ cluster's proxies as it is published, maybe empty; raises `invalid_address`."""
    if not address:
        return ""
    if kind != Kind.ROCKETMQ:
        detail = _("Only a RocketMQ cluster has proxies.")
        raise Problem("invalid_address", detail, errors=[FieldError("/proxy_address", _("Leave it empty."))])
    return _checked(address, SEPARATOR[Kind.ROCKETMQ], "/proxy_address")


def _checked(address: str, separator: str, pointer: str) -> str:
    parts = [part.strip() for part in address.split(separator)]
    hint = _("Write host:port, several joined by “{separator}”.").format(separator=separator)
    for part in parts:
        match = _ENDPOINT.fullmatch(part)
        if not match or not 0 < int(match[1]) < 65536:
            detail = _("“{part}” is not a host and port.").format(part=part[:80])
            raise Problem("invalid_address", detail, hint=hint, errors=[FieldError(pointer, f"{detail} {hint}")])
    return separator.join(parts)
