"""What stands in the service registries: services and who is registered with each, worker ids, and what became of them."""

from typing import Any, ClassVar

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from registry.discovery_querysets import RegistrationQuerySet, ServiceQuerySet, WorkerIdQuerySet


class Departure(models.TextChoices):
    """How a registration ended."""

    GOODBYE = "goodbye", _("said goodbye")
    REMOVED = "removed", _("deleted by others")
    LOST = "lost", _("without a goodbye")
    UNKNOWN = "unknown", _("nobody can tell")


class Service(models.Model):
    """What others register with: a Dubbo service, an application that produces or consumes, a job; kept by registrars."""

    class Layout(models.TextChoices):
        """Whose way of laying out nodes it is."""

        DUBBO = "dubbo", "Dubbo"
        MESSAGES = "messages", _("reliable messages")
        JOBS = "jobs", _("jobs")

    class Role(models.TextChoices):
        """What an application does, in the registry of reliable messages."""

        PRODUCER = "producer", _("producer")
        CONSUMER = "consumer", _("consumer")

    path = models.TextField(_("path"), unique=True)
    root = models.TextField(_("root"))
    layout = models.CharField(_("layout"), max_length=16, choices=Layout.choices)
    role = models.CharField(_("role"), max_length=16, choices=Role.choices, default="", blank=True)
    name = models.TextField(_("name"))
    # Who is there now, kept together with the registrations: a list of thousands counts nothing.
    providers = models.IntegerField(_("providers"), default=0)  # online: providers, hosts, or instances
    consumers = models.IntegerField(_("consumers"), default=0)
    online = models.BooleanField(_("online"), default=False)  # somebody provides it
    online_since = models.DateTimeField(_("online since"), null=True)
    offline_at = models.DateTimeField(_("offline since"), null=True)
    leader = models.CharField(_("leader"), max_length=300, default="", blank=True)
    leader_token = models.BigIntegerField(_("fencing token"), null=True)
    leader_since = models.DateTimeField(_("leader since"), null=True)
    standing = models.BooleanField(default=True)  # its node is there
    details: models.JSONField[dict[str, Any]] = models.JSONField(_("details"), default=dict)  # what its own nodes say
    zxid = models.BigIntegerField(default=0)  # at which the details were read: an older reading does not overwrite a newer one
    first_seen = models.DateTimeField(_("first seen"), db_default=Now())

    objects = ServiceQuerySet.as_manager()

    class Meta:
        verbose_name = _("service")
        verbose_name_plural = _("services")
        ordering = ("name", "id")
        default_permissions = ("view",)
        indexes = [models.Index(fields=["layout", "name", "id"], name="registry_service_listed")]  # the lists, each of one layout

    def __str__(self) -> str:
        return self.name


class Registration(models.Model):
    """Somebody who is, or was, registered with a service; one row a node."""

    class Kind(models.TextChoices):
        """What they are to the service."""

        PROVIDER = "provider", _("provider")
        CONSUMER = "consumer", _("consumer")
        ROUTER = "router", _("router")
        CONFIGURATOR = "configurator", _("configurator")
        HOST = "host", _("host")
        INSTANCE = "instance", _("instance")
        CANDIDATE = "candidate", _("candidate")

    #: Those by whom a service is online.
    SERVING: ClassVar = (Kind.PROVIDER, Kind.HOST, Kind.INSTANCE)

    service = models.ForeignKey(Service, models.CASCADE, related_name="registrations", db_index=False, verbose_name=_("service"))
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices)
    key = models.CharField(max_length=64, unique=True, editable=False)  # SHA-256 of the path: URLs are longer than an index takes
    znode = models.TextField(_("znode"))
    name = models.TextField(_("name"))  # of the node, decoded: a URL, a host, ip@-@pid
    app = models.CharField(_("application"), max_length=120, default="", blank=True)
    address = models.CharField(_("address"), max_length=300, default="", blank=True)
    service_version = models.CharField(_("version"), max_length=120, default="", blank=True)
    service_group = models.CharField(_("group"), max_length=120, default="", blank=True)
    pid = models.BigIntegerField(_("process"), null=True)
    sdk = models.CharField(_("SDK"), max_length=120, default="", blank=True)
    polite = models.BooleanField(_("says goodbye"), default=False)  # our SDK's; of others nobody can tell how they left
    session = models.CharField(_("session"), max_length=16, default="", blank=True)  # that it lives as long as; empty: persistent
    czxid = models.BigIntegerField()
    mzxid = models.BigIntegerField()
    online = models.BooleanField(_("online"), default=True)
    departure = models.CharField(_("how it left"), max_length=16, choices=Departure.choices, default="", blank=True)
    first_seen = models.DateTimeField(_("first seen"), db_default=Now())
    online_since = models.DateTimeField(_("online since"), default=timezone.now)
    offline_at = models.DateTimeField(_("offline since"), null=True)

    objects = RegistrationQuerySet.as_manager()

    class Meta:
        verbose_name = _("registration")
        verbose_name_plural = _("registrations")
        ordering = ("-online", "kind", "address", "id")
        default_permissions = ("view",)
        indexes = [
            # Those of a service, and its counts.
            models.Index(fields=["service", "kind"], name="registry_registration_of"),
            # Whose session goes on: asked for each one that is gone.
            models.Index(fields=["session"], condition=Q(online=True), name="registry_registration_session"),
            # Whether one that was lost is back: asked for each of the last day.
            models.Index(fields=["service", "address"], condition=Q(online=True), name="registry_registration_back"),
            # Which services are a person's own.
            models.Index(fields=["app"], name="registry_registration_app"),
            # The list of those that left, and forgetting them.
            models.Index(fields=["offline_at"], condition=Q(online=False), name="registry_registration_left"),
        ]

    def __str__(self) -> str:
        return self.name


class ServiceEvent(models.Model):
    """What happened to a service, and when by the database's clock; cut to the newest and to a month."""

    class Kind(models.TextChoices):
        """What happened."""

        REGISTERED = "registered", _("registered")
        LEFT = "left", _("went away")
        ONLINE = "online", _("online")
        OFFLINE = "offline", _("offline")
        LEADER = "leader", _("leader")

    service = models.ForeignKey(Service, models.CASCADE, related_name="events", db_index=False, verbose_name=_("service"))
    kind = models.CharField(_("what happened"), max_length=16, choices=Kind.choices)
    at = models.DateTimeField(_("when"), db_default=Now())
    member = models.CharField(_("who"), max_length=16, choices=Registration.Kind.choices, default="", blank=True)
    app = models.CharField(_("application"), max_length=120, default="", blank=True)
    name = models.CharField(_("name"), max_length=500, default="", blank=True)  # address of the member, or the leader
    session = models.CharField(_("session"), max_length=16, default="", blank=True)
    departure = models.CharField(_("how it left"), max_length=16, choices=Departure.choices, default="", blank=True)

    class Meta:
        default_permissions = ()  # who sees a service sees its history
        verbose_name = _("event of a service")
        verbose_name_plural = _("events of services")
        ordering = ("-id",)
        indexes = [
            # The history of one, newest first; cutting it.
            models.Index(fields=["service", "-id"], name="registry_serviceevent_newest"),
            # Forgetting what is old.
            models.Index(fields=["at"], name="registry_serviceevent_old"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


class WorkerId(models.Model):
    """The number that a host of an application has for good, out of one counter for all."""

    znode = models.TextField(_("znode"), unique=True)
    app = models.CharField(_("application"), max_length=120)
    host = models.CharField(_("host"), max_length=300)
    number = models.BigIntegerField(_("worker id"), null=True)  # null: its node holds no number
    mzxid = models.BigIntegerField(default=0)
    since = models.DateTimeField(_("since"), default=timezone.now)

    objects = WorkerIdQuerySet.as_manager()

    class Meta:
        verbose_name = _("worker id")
        verbose_name_plural = _("worker ids")
        ordering = ("app", "host")
        default_permissions = ("view",)
        indexes = [
            models.Index(fields=["number"], name="registry_workerid_number"),  # is it given twice?
            models.Index(fields=["app", "host"], name="registry_workerid_listed"),
        ]

    def __str__(self) -> str:
        return f"{self.app}/{self.host}"
