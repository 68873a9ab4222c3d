"""`mqctl doctor`: what is wrong between here and the control plane, ZooKeeper and the brokers, and what to do about it."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from mqadmin_sdk.cli import watching
from mqadmin_sdk.cli.common import Group, names
from mqadmin_sdk.cli.outcomes import CommandError, Exit
from mqadmin_sdk.cli.session import Session, part
from mqadmin_sdk.errors import MqadminError, ProblemError
from mqadmin_sdk.zk import paths, properties

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mqadmin_sdk.zk import Client

_PATIENCE = 5.0  # seconds for one connection
_CLOCK = 300  # seconds that the clock may be off before signatures are refused
_LOOKED_AT = 200  # of what may be many
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "error": ("✗", "bold red"), "unknown": ("?", "dim")}


@dataclass
class Check:
    """One thing that was looked at: `status` is ok, warning, error, or unknown with why it could not be told."""

    name: str
    status: str
    detail: str
    hint: str = ""


@click.command("doctor", cls=Group.command_class)
@click.option("-t", "--topic", "topics", multiple=True, shell_complete=names("topics"), help="Look at this topic, too.")
@click.option("-g", "--group", "groups", multiple=True, shell_complete=names("consumer-groups"), help="Look at this consumer group, too.")
@click.pass_obj
def doctor(session: Session, /, topics: tuple[str, ...], groups: tuple[str, ...]) -> None:
    """Say what is wrong between here and there: configuration, control plane, credential, clock, ZooKeeper, publication, brokers.

    With --topic and --group also: is it published, do both sides say the same, are its brokers reached, who lags. Exits with 3 if there
    is an error.
    """
    doctoring = Doctor(session, topics, groups)
    found = []
    for check in doctoring.checks():
        found.append(check)
        if not session.output.json:
            mark, style = _MARKS[check.status]
            session.output.say(f"{mark} {check.name}: {check.detail}", style=style if check.status != "ok" else "")
            if check.hint:
                session.output.say(f"    {check.hint}", style="")
    if session.output.json:
        session.output.document([asdict(check) for check in found])
    errors = sum(check.status == "error" for check in found)
    if errors:
        raise CommandError(f"{errors} of {len(found)} checks found an error.", code=Exit.FINDING)


class Doctor:
    """Looks at one thing after the other; what depends on something that is missing is left out."""

    def __init__(self, session: Session, topics: tuple[str, ...], groups: tuple[str, ...]) -> None:
        self._session, self._topics, self._groups = session, topics, groups
        self._zookeeper: Client | None = None
        self._answers = False  # the control plane, with this credential

    def checks(self) -> Iterator[Check]:
        """Yield each check as it is made."""
        settings = self._session.settings
        yield Check("configuration", "ok", f"{settings.source}; credential: {settings.who}")
        try:
            if settings.url:
                yield from self._control_plane()
            else:
                yield Check("control plane", "error", "no address is set", "Set MQADMIN_URL, or make a profile: docs/mqctl.md.")
            if settings.zookeeper:
                yield from self._zookeeper_servers()
            else:
                hint = "Set MQADMIN_ZOOKEEPER=host:port,…/chroot: applications follow their topics there."
                yield Check("ZooKeeper", "unknown", "no address is set", hint)
            if self._answers:
                yield from self._publication()
            for topic in self._topics:
                yield from self._thing("topic", topic)
            for group in self._groups:
                yield from self._thing("group", group)
        finally:
            if self._zookeeper is not None:
                self._zookeeper.stop()
                self._zookeeper.close()

    # --- the control plane ----------------------------------------------------------------------------------------------

    def _control_plane(self) -> Iterator[Check]:
        import httpx

        settings = self._session.settings
        addresses = [one.partition(";")[0].strip().rstrip("/") for one in settings.url.split(",") if one.strip()]
        reached = False
        for address in addresses:
            name = f"control plane {address}"
            parts = urlsplit(address)
            local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
            if parts.scheme == "http" and not local:
                hint = "Use https: the credential can be read on the way."
                yield Check(name, "warning", "the connection is not encrypted", hint)
            began = time.monotonic()
            try:
                verify = _tls(settings.ca)
                answer = httpx.get(f"{address}/readyz", timeout=_PATIENCE, verify=verify, trust_env=False)
            except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
                yield Check(name, "error", str(error) or type(error).__name__, _why_not(parts.hostname or "", parts.port))
                continue
            reached = True
            yield from self._ready(name, answer, (time.monotonic() - began) * 1000)
            yield from self._clock(answer)
        if reached:
            yield from self._credential()

    def _ready(self, name: str, answer: Any, milliseconds: float) -> Iterator[Check]:
        try:
            document = answer.json()
            missing = {part_: document["parts"][part_] for part_ in document["missing"]}
        except (ValueError, KeyError, TypeError):
            yield Check(name, "error", f"something else than mqadmin answers there ({answer.status_code})", "Is the address right?")
            return
        yield Check(name, "ok", f"answers in {milliseconds:.0f} ms")
        for part_, said in missing.items():
            yield Check(f"{name}: {part_}", "error", str(said), "docs/operations.md says what to do.")

    def _clock(self, answer: Any) -> Iterator[Check]:
        try:
            theirs = parsedate_to_datetime(answer.headers["date"]).timestamp()
        except (KeyError, ValueError, TypeError):
            return
        off = time.time() - theirs
        if abs(off) > _CLOCK - 10:
            hint = "Set it: signatures of application keys are refused beyond five minutes."
            yield Check("clock", "error", f"{off:+.0f} s off the server's", hint)
        elif abs(off) > 10:
            yield Check("clock", "warning", f"{off:+.0f} s off the server's", "Set it: signatures are refused beyond five minutes.")
        else:
            yield Check("clock", "ok", "within 10 s of the server's")

    def _credential(self) -> Iterator[Check]:
        settings = self._session.settings
        try:
            if settings.token:
                me = self._session.get("me")
                yield Check("credential", "ok", f"{me['username']}, scopes: {', '.join(me['scopes']) or 'none'}")
            else:
                self._session.get("topics", limit=1)
                yield Check("credential", "ok", f"application key {settings.app_key}: its own topics and groups")
            self._answers = True
        except ProblemError as error:
            yield Check("credential", "error", f"{error.detail} [{error.code}]", error.hint)
        except (MqadminError, CommandError) as error:
            yield Check("credential", "error", str(error), getattr(error, "hint", ""))

    # --- ZooKeeper --------------------------------------------------------------------------------------------------------

    def _zookeeper_servers(self) -> Iterator[Check]:
        from kazoo.hosts import collect_hosts

        settings = self._session.settings
        try:
            servers, chroot = collect_hosts(settings.zookeeper)
        except ValueError as error:
            yield Check("ZooKeeper", "error", f"{settings.zookeeper}: {error}", "It is host:port,host:port/chroot.")
            return
        with ThreadPoolExecutor(max(1, len(servers))) as threads:
            for (host, port), why in zip(servers, threads.map(lambda server: _connects(*server), servers), strict=True):
                if why:
                    status = "error" if len(servers) == 1 else "warning"
                    yield Check(f"ZooKeeper {host}:{port}", status, why, _why_not(host, int(port)))
        try:
            self._zookeeper = client = watching.connect(settings)
        except CommandError as error:
            yield Check("ZooKeeper", "error", error.message, "Is it a ZooKeeper, and does it want TLS or credentials? sdk/README.md")
            return
        from mqadmin_sdk.zk import ServerTooOldError

        try:
            version = client.check_server()
        except ServerTooOldError as error:
            yield Check("ZooKeeper", "error", str(error))
            return
        except OSError as error:
            version = None
            yield Check("ZooKeeper", "warning", f"it does not say its version: {error}")
        said = ".".join(map(str, version)) if version else "of a version that it does not tell"
        yield Check("ZooKeeper", "ok", f"connected, {said}, session of {client.session_timeout:g} s")
        yield from self._tree(client, chroot or "")

    def _tree(self, client: Client, chroot: str) -> Iterator[Check]:
        roots = (paths.OWNER, paths.CLUSTERS, paths.TOPICS, paths.GROUPS)
        owner, *trees = self._nodes(client, roots)
        if not any(node is not None for node in trees):
            hint = (
                "Is the chroot right? It is that of mqadmin's ZOOKEEPER_HOSTS." if owner is None else "mqadmin has published nothing yet."
            )
            yield Check("tree", "error", f"nothing of mqadmin stands below {chroot or '/'}", hint)
            return
        if owner is None:
            yield Check("tree", "warning", "no owner is written: a ZMS without mqadmin?")
            return
        try:
            document = json.loads(owner.data)
            deployment, environment = document["deployment"], document.get("environment", "")
        except (ValueError, KeyError, TypeError):
            yield Check("tree", "error", f"{paths.OWNER} cannot be read")
            return
        numbers = ", ".join(f"{word} {node.stat.numChildren if node else 0}" for node, word in zip(trees, _TREES, strict=True))
        yield Check("tree", "ok", f"deployment {deployment} ({environment}): {numbers}")
        theirs = self._read("zookeeper", path=paths.OWNER)
        if theirs is not None:
            try:
                same = json.loads(theirs["content"])["deployment"] == deployment
            except (ValueError, KeyError, TypeError):
                same = False
            if not same:
                hint = "The control plane publishes to another tree: applications that follow this one see nothing of it."
                yield Check("same tree", "error", "the control plane's owner node says something else", hint)
            else:
                yield Check("same tree", "ok", "the control plane publishes here")

    @staticmethod
    def _nodes(client: Client, wanted: tuple[str, ...]) -> list[Any]:
        from kazoo.exceptions import KazooException

        try:
            return list(client.multi_read(wanted, denied=set())[1])
        except (KazooException, client.handler.timeout_exception) as error:
            raise CommandError(f"ZooKeeper was lost: {error!r}", code=Exit.UNREACHABLE) from error

    # --- publication ------------------------------------------------------------------------------------------------------

    def _publication(self) -> Iterator[Check]:
        registrars = self._read("registrars", limit=_LOOKED_AT)
        if registrars is not None:
            alive = [row for row in registrars["results"] if row["alive"]]
            watching_ = [row for row in alive if row["watching"]]
            if not alive:
                yield Check("registrars", "error", "none is alive: nothing is published", "Start one: python manage.py registrar.")
            elif not watching_:
                errors = "; ".join(row["error"] for row in alive if row["error"])
                yield Check("registrars", "error", f"none watches ZooKeeper{': ' + errors if errors else ''}", "docs/operations.md")
            else:
                yield Check("registrars", "ok", f"{len(alive)} alive, {len(watching_)} watching")
        waiting = self._read("publications", waiting=True, limit=_LOOKED_AT)
        if waiting is not None:
            stuck = [row for row in waiting["results"] if row["last_error"]]
            for row in stuck[:5]:
                yield Check("publication", "error", f"{row['path']}: {row['last_error']}", "mqctl watch shows what stands there.")
            if not stuck:
                number = f"{len(waiting['results'])}{'+' if waiting['next'] else ''}"
                yield Check("publication", "ok", f"{number} waiting" if waiting["results"] else "nothing waits")
        drift = self._read("drift", outcome="waiting", limit=_LOOKED_AT)
        if drift is not None and drift["results"]:
            hint = "Decide them: console, Drift."
            yield Check("drift", "warning", f"{len(drift['results'])} edits by others wait for a decision", hint)

    def _read(self, path: str, /, **params: Any) -> Any:
        """Read what this credential may see; None where it may not, or the answer is missing."""
        if not self._answers:
            return None
        try:
            return self._session.get(path, **params)
        except MqadminError:
            return None

    # --- a topic or a group -------------------------------------------------------------------------------------------------

    def _thing(self, kind: str, name: str) -> Iterator[Check]:
        what = f"{kind} {name}"
        collection, path = ("topics", paths.topic(name)) if kind == "topic" else ("consumer-groups", paths.group(name))
        document = None
        if self._answers:
            try:
                document = self._session.get(f"{collection}/{part(name)}")
            except ProblemError as error:
                yield Check(what, "error", f"{error.detail} [{error.code}]", error.hint or "Is the name right, and is it yours?")
                return
            yield from _state(what, document)
        if self._zookeeper is not None:
            yield from self._node(what, path, document)
        if document is not None and document["state"] == "active":
            yield from self._applied(what, collection, name)
            if kind == "group":
                yield from self._progress(what, name)

    def _node(self, what: str, path: str, document: Any) -> Iterator[Check]:
        assert self._zookeeper is not None
        (node,) = self._nodes(self._zookeeper, (path,))
        if node is None:
            yield Check(f"{what}: node", "error", f"{path} is not there", "Is it active, and is this the tree that mqadmin publishes to?")
            return
        try:
            pairs = properties.loads(node.data)
        except properties.PropertiesError as error:
            yield Check(f"{what}: node", "error", f"{path} cannot be read: {error}")
            return
        generation = properties.generation_of(pairs)
        wanted = (document or {}).get("status") or {}
        if wanted and wanted["published_generation"] != generation:
            hint = "Another tree, or an edit by others: mqctl watch, and the console's Drift."
            detail = f"generation {generation} stands there, {wanted['published_generation']} was published"
            yield Check(f"{what}: node", "error", detail, hint)
        else:
            yield Check(f"{what}: node", "ok", f"generation {generation}, {node.stat.numChildren} instances below it")
        for cluster in dict.fromkeys(one for one in (pairs.get("clusterName"), pairs.get("gatedCluster")) if one):
            yield from self._broker(what, cluster)

    def _broker(self, what: str, cluster: str) -> Iterator[Check]:
        assert self._zookeeper is not None
        (node,) = self._nodes(self._zookeeper, (paths.cluster(cluster),))
        name = f"{what}: cluster {cluster}"
        if node is None:
            yield Check(name, "error", f"{paths.cluster(cluster)} is not there")
            return
        pairs = properties.loads(node.data)
        if pairs.get("brokerType") == "builtin":
            yield Check(name, "ok", "the built-in store: reached by the control plane's address")
            return
        kind = pairs.get("brokerType", "")
        key = "mqadmin.proxyAddr" if kind == "rocketmq" else "bootAddr"  # where Python applications go
        if not pairs.get(key):
            yield Check(name, "error", f"{kind}: its node has no {key}", "Operators enter the address at the cluster in mqadmin.")
            return
        servers = [one.strip() for one in pairs[key].replace(";", ",").split(",") if one.strip()]
        split = [(host.strip("[]"), port) for host, _colon, port in (server.rpartition(":") for server in servers)]
        with ThreadPoolExecutor(8) as threads:
            errors = list(threads.map(lambda server: _connects(*server), split))
        bad = [f"{server}: {error}" for server, error in zip(servers, errors, strict=True) if error]
        if not bad:
            yield Check(name, "ok", f"{kind}: {len(servers)} of {len(servers)} addresses take connections")
        else:
            status = "error" if len(bad) == len(servers) else "warning"
            yield Check(name, status, f"{kind}: not reached from here: {'; '.join(bad)}", "Network, firewall, or the cluster's address.")

    def _applied(self, what: str, collection: str, name: str) -> Iterator[Check]:
        found = self._read(f"{collection}/{part(name)}/applied")
        if found is None:
            return
        counts = found["instances"]
        words = ", ".join(f"{number} {word}" for word, number in counts.items() if number and word != "offline") or "no instance is online"
        failing = [one for one in found["stragglers"] if one["error"]]
        for one in failing[:5]:
            yield Check(f"{what}: instances", "error", f"{one['app'] or one['node']} at {one['ip']}: {one['error']}", "Look into its log.")
        if not failing:
            behind = bool(found["stragglers"])
            yield Check(f"{what}: instances", "warning" if behind else "ok" if found["known"] else "unknown", words)

    def _progress(self, what: str, name: str) -> Iterator[Check]:
        found = self._read(f"consumer-groups/{part(name)}/status")
        if found is None:
            return
        counts, lag = found["counts"], found["lag"]
        behind = f"{lag['messages']:,} behind, {counts['dead']:,} dead letters"
        if counts["dead"]:
            yield Check(f"{what}: messages", "warning", behind, f"mqctl dead causes {name}")
        else:
            yield Check(f"{what}: messages", "ok", behind)


_TREES = ("clusters", "topics", "consumer groups")


def _state(what: str, document: Any) -> Iterator[Check]:
    if document["state"] != "active":
        yield Check(what, "error", f"it is {document['state']}", "A request waits for a decision, or it is retired.")
    elif document.get("suspended"):
        yield Check(what, "warning", f"it is suspended: {document['suspend_reason']}", f"mqctl groups resume {document['name']}")
    elif (status := document.get("status")) and status["generation"] != status["published_generation"]:
        yield Check(what, "warning", f"generation {status['generation']} is not published yet", status["last_error"])
    else:
        yield Check(what, "ok", "active" + (f" on cluster {document['cluster']}" if document.get("cluster") else ""))


def _tls(ca: str) -> Any:
    import ssl

    return ssl.create_default_context(cafile=ca) if ca else True


def _connects(host: str, port: str | int) -> str:
    """Return why no connection is made; empty if it is."""
    try:
        with socket.create_connection((host, int(port)), timeout=_PATIENCE):
            return ""
    except (OSError, ValueError, OverflowError) as error:
        return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _why_not(host: str, port: int | None) -> str:
    """Say where the way to a host ends."""
    try:
        found = socket.getaddrinfo(host, port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"The name {host} is not known here: DNS."
    address = str(found[0][4][0])
    return f"{host} is {address}: is it running, and does a firewall let us through?"
