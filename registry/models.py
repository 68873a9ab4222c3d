"""What should stand in ZooKeeper (publications), who runs it (instances), and the registrars that see to both."""

import uuid
from datetime import timedelta

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models import F, Q, Value
from django.db.models.functions import Now
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from registry import counting, rendering
from registry import discovery_models as discovery_models  # noqa: PLC0414 - Django finds it here
from registry.drift_models import DriftPolicy as DriftPolicy  # noqa: PLC0414 - Django, and others, find it here
from registry.drift_models import TreeCheck as TreeCheck  # noqa: PLC0414 - as above
from registry.querysets import DriftQuerySet, GateQuerySet, InstanceQuerySet, PublicationQuerySet, RegistrarQuerySet, ReleaseQuerySet

#: A registrar that has not written its heartbeat for so long is not counted as running.
HEARTBEAT_LIMIT = timedelta(seconds=6)


class Edit(models.TextChoices):
    """What somebody other than mqadmin did to a node."""

    FOUND = "found", _("the node was there before")
    CHANGED = "changed", _("data changed")
    DELETED = "deleted", _("node deleted")
    CREATED = "created", _("retired node created again")
    UNKNOWN = "unknown", _("a node that mqadmin does not know")


class Publication(models.Model):
    """The desired state of one path; many changes collapse into one write, and a repair is the same code as the normal way."""

    class Format(models.TextChoices):
        """How the data is encoded."""

        PROPERTIES = "properties", _("Java properties")
        JSON = "json", _("JSON")

    path = models.TextField(_("path"), unique=True)
    root = models.TextField(_("root"), editable=False)
    format = models.CharField(_("format"), max_length=16, choices=Format.choices)
    data = models.BinaryField(_("data"), default=b"")  # the whole node, generation embedded, foreign keys at the end
    foreign_keys = models.JSONField(_("foreign keys"), default=list, blank=True)  # [[key, value], …] in the node's order
    requires = ArrayField(models.TextField(), verbose_name=_("requires"), default=list, blank=True)  # paths that must be published first
    deleted = models.BooleanField(_("retired"), default=False)  # a tombstone: its generations go on if the path is published again
    generation = models.BigIntegerField(_("generation"), default=0)
    published_generation = models.BigIntegerField(_("published generation"), default=0)
    published_digest = models.CharField(
        max_length=64, default="", blank=True
    )  # SHA-256 of what we last wrote: tells foreign edits from ours
    node_version = models.IntegerField(_("node version"), null=True, blank=True)  # None: as far as we know there is no node
    changed_at = models.DateTimeField(_("changed"), default=timezone.now)
    published_at = models.DateTimeField(_("published"), null=True, blank=True)
    published_by = models.CharField(_("published by"), max_length=200, default="", blank=True)
    attempts = models.IntegerField(_("attempts"), default=0)
    last_attempt_at = models.DateTimeField(_("last attempt"), null=True, blank=True)
    next_attempt_at = models.DateTimeField(_("next attempt"), default=timezone.now)
    last_error = models.TextField(_("last error"), default="", blank=True)
    drifted_at = models.DateTimeField(_("drift seen"), null=True, blank=True)  # the node differs although everything was published
    last_foreign_edit = models.CharField(_("last foreign edit"), max_length=16, choices=Edit.choices, default="", blank=True)
    last_foreign_edit_at = models.DateTimeField(_("foreign edit at"), null=True, blank=True)
    # The drift that waits for a person is the one seen at `drifted_at`; a later mark lets a registrar look at the node again.
    held_at = models.DateTimeField(_("waits for a person since"), null=True, blank=True)
    overrules = models.TextField(
        _("decided against"), default="", db_default="", blank=True
    )  # the incident (see Drift) that may be written over
    repairs = models.IntegerField(_("repairs in the window"), default=0)
    repairs_since = models.DateTimeField(_("window of repairs since"), null=True, blank=True)

    objects = PublicationQuerySet.as_manager()

    class Meta:
        verbose_name = _("publication")
        verbose_name_plural = _("publications")
        ordering = ("path",)
        constraints = [
            models.CheckConstraint(
                condition=Q(published_generation__lte=F("generation")), name="registry_publication_published_lte_generation"
            ),
        ]
        indexes = [
            # The registrar's look for work (PublicationQuerySet.due): only dirty or drifted rows stand in it.
            models.Index(
                fields=["next_attempt_at"],
                condition=Q(published_generation__lt=F("generation")) | Q(drifted_at__isnull=False),
                name="registry_publication_due",
            ),
            # Who depends on this path: retracting and republishing ask for `requires @> {path}`.
            GinIndex(fields=["requires"], name="registry_publication_requires"),
        ]

    def __str__(self) -> str:
        return self.path

    @property
    def is_published(self) -> bool:
        """Whether ZooKeeper holds the last generation, as far as is known."""
        return self.published_generation == self.generation and self.drifted_at is None

    @property
    def is_held(self) -> bool:
        """Whether somebody else's edit waits for a person: until then nothing is written at this path."""
        return self.held_at is not None and self.held_at == self.drifted_at

    @property
    def state(self) -> str:
        """One word for lists: `published`, `retired`, `pending`, `failing` (tried, with an error), `drifted` or `held`."""
        if self.is_held:
            return "held"
        if self.published_generation < self.generation:
            return "failing" if self.last_error else "pending"
        if self.drifted_at is not None:
            return "drifted"
        return "retired" if self.deleted else "published"

    @property
    def text(self) -> str:
        """The node's data for people."""
        return bytes(self.data).decode("utf-8", "replace")


class Release(models.Model):
    """One generation of one path: who made it, why, and what was to stand there. Written with the change itself, never changed."""

    class Kind(models.TextChoices):
        """How it came about."""

        NORMAL = "normal", _("normal")
        ROLLBACK = "rollback", _("rollback")
        GATED = "gated", _("gated")
        EMERGENCY = "emergency", _("emergency")
        REPAIR = "repair", _("repair")

    publication = models.ForeignKey(
        Publication, models.CASCADE, related_name="releases", verbose_name=_("publication"), db_index=False
    )  # found by the constraint's index
    generation = models.BigIntegerField(_("generation"))
    kind = models.CharField(_("kind"), max_length=16, choices=Kind.choices)
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.DO_NOTHING,
        null=True,
        db_constraint=False,
        db_index=False,
        related_name="+",
        verbose_name=_("author"),
    )
    author_name = models.CharField(_("author"), max_length=150, help_text=_("“system” is a worker of mqadmin."))
    message = models.TextField(_("message"), blank=True)
    change = models.UUIDField(_("change"))  # what one verb released together has the same one
    format = models.CharField(_("format"), max_length=16, choices=Publication.Format.choices)
    deleted = models.BooleanField(_("retired"), default=False)
    data = models.BinaryField(_("data"), default=b"")  # the whole node, as it was to be written; empty when the path was retired
    created_at = models.DateTimeField(_("created"), db_default=Now())
    published_at = models.DateTimeField(_("published"), null=True, blank=True)  # a registrar has recorded it as standing in ZooKeeper

    objects = ReleaseQuerySet.as_manager()

    class Meta:
        verbose_name = _("release")
        verbose_name_plural = _("releases")
        ordering = ("-id",)
        default_permissions = ("view",)
        permissions = [("rollback_release", _("Can roll back to a release"))]
        constraints = [models.UniqueConstraint(fields=["publication", "generation"], name="registry_release_generation")]
        indexes = [
            models.Index(fields=["change"], name="registry_release_change"),  # what was released together
            models.Index(fields=["author_name", "-id"], name="registry_release_author"),
            models.Index(fields=["created_at"], name="registry_release_time"),  # a period, and what has to be forgotten
            # The kinds that are rare, newest first; nearly all are normal, and those are found in the order of the list.
            models.Index(fields=["kind", "-id"], condition=~Q(kind="normal"), name="registry_release_kind"),
        ]

    def __str__(self) -> str:
        return f"{self.publication.path} {self.generation}"

    @property
    def path(self) -> str:
        """The node."""
        return self.publication.path

    @property
    def is_latest(self) -> bool:
        """Whether nothing was released after it."""
        return self.generation == self.publication.generation

    @property
    def text(self) -> str:
        """The node's data for people."""
        return bytes(self.data).decode("utf-8", "replace")

    @property
    def state(self) -> str:
        """`published`: it stands, or stood, in ZooKeeper. `pending`: not yet. `superseded`: a later one came before it was seen there."""
        if self.published_at is not None:
            return "published"
        return "pending" if self.generation > self.publication.published_generation else "superseded"


class Drift(models.Model):
    """What somebody other than mqadmin did in our trees, once an edit, and what became of it.

    ZooKeeper keeps no author of a change: only an ephemeral node names the session that made it.
    """

    class Outcome(models.TextChoices):
        """What became of it."""

        OPEN = "open", _("being repaired")
        WAITING = "waiting", _("waits for a person")
        LEFT = "left", _("left as it is")
        REPAIRED = "repaired", _("repaired")
        KEPT = "kept", _("its keys were kept")
        ADOPTED = "adopted", _("adopted")
        UNDONE = "undone", _("undone by others")
        SUPERSEDED = "superseded", _("changed again")

    path = models.TextField(_("path"))
    edit = models.CharField(_("edit"), max_length=16, choices=Edit.choices)
    incident = models.TextField(editable=False)  # names this edit, whichever registrar sees it: by the node's transaction
    seen_at = models.DateTimeField(_("seen"), db_default=Now())
    node_mtime = models.DateTimeField(_("changed in ZooKeeper"), null=True)  # null: there is no node
    mzxid = models.BigIntegerField(_("transaction"), null=True)
    node_version = models.IntegerField(_("node version"), null=True)
    session = models.CharField(_("session"), max_length=32, default="", blank=True)  # of an ephemeral node; otherwise nobody knows
    data = models.BinaryField(_("data found"), null=True)  # the first KEPT_BYTES of it
    size = models.IntegerField(_("size"), default=0)
    wanted = models.BinaryField(_("data wanted"), null=True)
    wanted_generation = models.BigIntegerField(_("generation wanted"), null=True)
    format = models.CharField(max_length=16, default=Publication.Format.PROPERTIES)
    outcome = models.CharField(_("outcome"), max_length=16, choices=Outcome.choices)
    settled_at = models.DateTimeField(_("settled"), null=True)
    decided_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, null=True, related_name="+", verbose_name=_("decided by"))
    reason = models.TextField(_("reason"), default="", blank=True)

    KEPT_BYTES = 512 * 1024

    objects = DriftQuerySet.as_manager()

    class Meta:
        verbose_name = _("drift")
        verbose_name_plural = _("drift")
        ordering = ("-id",)
        default_permissions = ("view", "change")
        constraints = [models.UniqueConstraint(fields=["path", "incident"], name="registry_drift_once")]
        indexes = [
            # Those of a path that are not settled: asked with every publication that is recorded.
            models.Index(fields=["path"], condition=Q(settled_at=None), name="registry_drift_open"),
            models.Index(fields=["path", "-id"], name="registry_drift_of_path"),
        ]

    def __str__(self) -> str:
        return f"{self.path}: {self.get_edit_display()}"

    @property
    def who(self) -> str:
        """The session that did it, empty while nobody knows: ZooKeeper keeps it for ephemeral nodes only."""
        return f"0x{self.session}" if self.session else ""

    @property
    def differences(self) -> list[rendering.Difference]:
        """Key by key, what was wanted and what stood there."""
        wanted, found = (None if data is None else bytes(data) for data in (self.wanted, self.data))
        return rendering.differences(self.format, wanted, found)


class Instance(models.Model):
    """One running process that follows a topic, a group or a shadow group, as its ephemeral node tells, or its heartbeats over REST."""

    class Role(models.TextChoices):
        """What the process does."""

        PRODUCER = "producer", _("producer")
        CONSUMER = "consumer", _("consumer")
        SHADOW = "shadow", _("shadow consumer")

    class Applied(models.TextChoices):
        """Whether it runs what is published."""

        APPLIED = "applied", _("applied")
        OUTDATED = "outdated", _("outdated")
        UNKNOWN = "unknown", _("unknown")
        OFFLINE = "offline", _("offline")

    class Source(models.TextChoices):
        """How it is known."""

        ZOOKEEPER = "zookeeper", "ZooKeeper"
        REST = "rest", "REST"

    path = models.TextField(_("path"))  # of the publication that it follows: the topic's, the group's or the shadow group's node
    node = models.TextField(_("node"))  # name of the ephemeral node
    znode = models.TextField(_("znode"), unique=True)  # its full path; without ZooKeeper `client:` and the id that it registered with
    ip = models.CharField(_("address"), max_length=255, default="", blank=True)
    role = models.CharField(_("role"), max_length=16, choices=Role.choices)
    sdk = models.CharField(_("SDK"), max_length=120, default="", blank=True)
    app = models.CharField(_("application"), max_length=120, default="", blank=True)
    pid = models.BigIntegerField(_("process"), null=True, blank=True)
    state = models.CharField(_("state"), max_length=32, default="", blank=True)
    cluster = models.CharField(_("cluster"), max_length=120, default="", blank=True)
    applied_generation = models.BigIntegerField(_("applied generation"), null=True, blank=True)
    applied_at = models.DateTimeField(_("applied"), null=True, blank=True)  # by the instance's own clock
    seen_at = models.DateTimeField(_("seen"), null=True, blank=True)  # when the applied generation was recorded, by the database's clock
    error = models.TextField(_("error"), default="", blank=True)
    labels = models.JSONField(_("labels"), null=True, blank=True)  # what it says of itself, such as its zone; null: nothing
    counts = models.JSONField(_("counts"), null=True, blank=True)  # what it counts of its work; null: it tells nothing
    counted_at = models.DateTimeField(_("counted"), null=True, blank=True)  # when it wrote these, by ZooKeeper's clock
    plain = models.BooleanField(_("plain ZMS client"), default=False)  # no SDK marker: what it has applied is unknown, never "applied"
    czxid = models.BigIntegerField(_("incarnation"))
    mzxid = models.BigIntegerField(_("last report"))
    online = models.BooleanField(_("online"), default=True)
    beat_at = models.DateTimeField(_("last heartbeat"), null=True, blank=True)  # null: known from ZooKeeper, whose session tells
    # What it follows, by the path: no column, only a way to join, since most lists compare the two generations.
    publication = models.ForeignObject(
        Publication, models.DO_NOTHING, from_fields=["path"], to_fields=["path"], related_name="+", null=True, editable=False
    )
    first_seen = models.DateTimeField(_("first seen"), default=timezone.now)
    online_since = models.DateTimeField(_("online since"), default=timezone.now)
    offline_at = models.DateTimeField(_("offline since"), null=True, blank=True)

    objects = InstanceQuerySet.as_manager()

    class Meta:
        verbose_name = _("instance")
        verbose_name_plural = _("instances")
        ordering = ("path", "node")
        indexes = [
            # The counts of lists and of "N of M applied", and the instances of one topic.
            models.Index(fields=["path"], condition=Q(online=True), name="registry_instance_online"),
            # Forgetting those that have been gone for long.
            models.Index(fields=["offline_at"], condition=Q(online=False), name="registry_instance_offline"),
            # Who may have to be evicted. beat_at is no part of any index, not even of a condition: so each heartbeat is a heap-only update.
            models.Index(fields=["id"], condition=Q(online=True, znode__startswith="client:"), name="registry_instance_beating"),
        ]

    def __str__(self) -> str:
        return self.znode

    @property
    def said(self) -> list[counting.Count]:
        """What it counts of its work, for a page."""
        return counting.shown(self.counts or {})

    @property
    def said_briefly(self) -> list[counting.Count]:
        """The few of them that a row of a list shows."""
        return counting.brief(self.counts or {})

    @property
    def source(self) -> str:
        """How it is known: `zookeeper`, or `rest` by its heartbeats."""
        return Instance.Source.ZOOKEEPER if self.beat_at is None else Instance.Source.REST


class Gate(models.Model):
    """A gated release: some instances of a topic or group use another cluster, until that is promoted for all, or abandoned."""

    class State(models.TextChoices):
        """How far it is."""

        OPEN = "open", _("open")
        PROMOTED = "promoted", _("promoted")
        ABANDONING = "abandoning", _("being abandoned")
        ABANDONED = "abandoned", _("abandoned")
        CLOSED = "closed", _("closed without proof")

    publication = models.ForeignKey(Publication, models.CASCADE, related_name="gates", verbose_name=_("publication"))
    cluster = models.CharField(_("cluster"), max_length=120)
    main_cluster = models.CharField(_("main cluster"), max_length=120)  # of everybody else, when the gate was opened
    ips = ArrayField(models.CharField(max_length=64), verbose_name=_("addresses"), default=list)
    labels = models.JSONField(_("labels"), default=dict)  # of instances of our SDK; all of them have to be there
    state = models.CharField(_("state"), max_length=12, choices=State.choices, default=State.OPEN)
    generation = models.BigIntegerField(_("generation"), default=0)  # that opened it
    opened_by = models.CharField(_("opened by"), max_length=150)
    reason = models.TextField(_("reason"))
    opened_at = models.DateTimeField(_("opened"), db_default=Now())
    ended_generation = models.BigIntegerField(_("generation that ended it"), null=True)  # from it on everybody is on the main cluster
    ended_by = models.CharField(_("ended by"), max_length=150, default="")
    end_reason = models.TextField(_("reason of the end"), default="")
    ended_at = models.DateTimeField(_("ended"), null=True)
    closed_at = models.DateTimeField(_("closed"), null=True)  # promoted, proven to be abandoned, or closed by a person

    objects = GateQuerySet.as_manager()

    class Meta:
        verbose_name = _("gated release")
        verbose_name_plural = _("gated releases")
        ordering = ("-id",)
        default_permissions = ("view", "add", "change")
        constraints = [
            models.UniqueConstraint(fields=["publication"], condition=Q(closed_at=None), name="registry_gate_one_at_a_time"),
        ]

    def __str__(self) -> str:
        return f"{self.publication.path} → {self.cluster}"

    @property
    def path(self) -> str:
        """The node."""
        return self.publication.path


class InstanceEvent(models.Model):
    """What became known of an instance, and when by the database's clock: its history, cut to the newest and to a week."""

    class Kind(models.TextChoices):
        """What happened."""

        ONLINE = "online", _("online")
        APPLIED = "applied", _("applied")
        FAILED = "failed", _("failed")
        OFFLINE = "offline", _("offline")

    instance = models.ForeignKey(Instance, models.CASCADE, related_name="events", db_index=False, verbose_name=_("instance"))
    kind = models.CharField(_("what happened"), max_length=16, choices=Kind.choices)
    at = models.DateTimeField(_("when"), db_default=Now())
    generation = models.BigIntegerField(_("generation"), null=True, blank=True)  # what it ran then
    applied_at = models.DateTimeField(_("applied"), null=True, blank=True)  # by the instance's own clock
    detail = models.TextField(_("detail"), blank=True)

    class Meta:
        default_permissions = ()  # who sees an instance sees its history
        verbose_name = _("event of an instance")
        verbose_name_plural = _("events of instances")
        ordering = ("-id",)
        indexes = [
            # The history of one, newest first; cutting it.
            models.Index(fields=["instance", "-id"], name="registry_instanceevent_newest"),
            # When each instance had a generation or a later one.
            models.Index(fields=["instance", "generation"], condition=Q(kind="applied"), name="registry_instanceevent_applied"),
            # Forgetting what is old.
            models.Index(fields=["at"], name="registry_instanceevent_old"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.generation}"


class RegistrarHeartbeat(models.Model):
    """A running registrar, as it last described itself."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    host = models.CharField(_("host"), max_length=255)
    pid = models.IntegerField(_("process"))
    session = models.CharField(_("ZooKeeper session"), max_length=32, default="", blank=True)
    started_at = models.DateTimeField(_("started"), default=timezone.now)
    beat_at = models.DateTimeField(_("last heartbeat"), default=timezone.now)
    zookeeper = models.CharField(_("ZooKeeper"), max_length=16, default="", blank=True)  # connected, suspended, lost, refused
    watch = models.CharField(_("watch"), max_length=16, default="", blank=True)  # live, comparing, none
    discovery = models.CharField(_("service registries"), max_length=16, db_default="", default="", blank=True)  # or off
    unrecorded: models.JSONField[dict[str, int]] = models.JSONField(  # services that there is no room for, by the root of their registry
        _("services not recorded"), db_default=Value({}, output_field=models.JSONField()), default=dict
    )
    error = models.TextField(_("error"), default="", blank=True)

    objects = RegistrarQuerySet.as_manager()

    class Meta:
        verbose_name = _("registrar")
        verbose_name_plural = _("registrars")
        ordering = ("started_at",)

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"

    @property
    def is_alive(self) -> bool:
        """Whether its heart has beaten within the last seconds."""
        return timezone.now() - self.beat_at <= HEARTBEAT_LIMIT

    @property
    def is_watching(self) -> bool:
        """Whether it sees every change in ZooKeeper as it happens."""
        return self.is_alive and self.zookeeper == "connected" and self.watch == "live"


class Deployment(models.Model):
    """Who we are to ZooKeeper: one row; the owner node names it, so that two control planes never repair each other for ever."""

    id = models.SmallIntegerField(primary_key=True, default=1, editable=False)
    key = models.UUIDField(default=uuid.uuid4, editable=False)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="registry_deployment_only_one")]
        permissions = [("view_zookeeper", _("Can look into ZooKeeper"))]  # of no table: what stands in the tree itself

    def __str__(self) -> str:
        return str(self.key)
