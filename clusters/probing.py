"""Whether somebody listens at the address of a cluster: a TCP connection and nothing more. Outside of any transaction."""

import re
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from django.utils.translation import gettext as _

from core import outbound
from core.api.dry_run import Warn

MOST = 10
_CODES = {"unreachable": "address_unreachable", "not_probed": "address_not_probed"}


def probe(address: str) -> list[Warn]:
    """A warning for each host:port that does not answer, or that may not be asked; what is malformed is the service's business."""
    parts = [part.strip() for part in re.split("[,;]", address) if part.strip()][:MOST]
    with ThreadPoolExecutor(max_workers=MOST) as pool:
        return [warning for warning in pool.map(_probe, parts) if warning is not None]


def _probe(part: str) -> Warn | None:
    try:
        target = urlsplit(f"tcp://{part}")
        host, port = target.hostname, target.port
    except ValueError:
        return None
    if not host or not port:
        return None
    found = outbound.reachable(host, port)
    if found.state == "reachable":
        return None
    return Warn(_CODES[found.state], _("“{address}” was not reached from here: {why}").format(address=part, why=found.detail), "/address")
