"""Topics: applied for, approved and allocated to a cluster, published, retired."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.utils.translation import gettext_lazy as _

from accounts.models import Application
from clusters.models import Cluster
from core.approvals.models import Approvable
from topics.querysets import DrainingQuerySet, TopicQuerySet


class OrderScope(models.TextChoices):
    """Which messages of an ordered topic are in one order."""

    KEY = "key", _("those with the same sharding key")
    TOPIC = "topic", _("all of the topic")


class Retention(models.TextChoices):
    """When messages of a topic go from the built-in store."""

    STORE = "store", _("as the store keeps them: a week longer than any group needs them")
    DONE = "done", _("when all groups are done with them")
    LIMIT = "limit", _("by age and size alone, done or not")


class Topic(Approvable):
    """A topic; its row is the truth, its node in ZooKeeper what SDKs see."""

    name = models.CharField(
        _("name"), max_length=120, unique=True, help_text=_("Letters, digits and _ . % -, at most 120. It cannot be changed.")
    )
    application = models.ForeignKey(
        Application,
        models.PROTECT,
        related_name="topics",
        verbose_name=_("application"),
        help_text=_("The application that produces the messages."),
    )
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.PROTECT,
        related_name="topics",
        verbose_name=_("owner"),
        help_text=_("Is asked when something is wrong with it."),
    )
    expected_rate = models.PositiveIntegerField(
        _("expected messages per second"), validators=[MaxValueValidator(10_000_000)], help_text=_("At the busiest hour.")
    )
    message_bytes = models.PositiveIntegerField(
        _("typical message size in bytes"), validators=[MinValueValidator(1), MaxValueValidator(16 * 1024 * 1024)]
    )
    partitions = models.PositiveIntegerField(
        _("partitions"),
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(4096)],
        help_text=_("Asked of a broker cluster; the built-in store needs none."),
    )
    ordered = models.BooleanField(
        _("ordered"),
        default=False,
        help_text=_(
            "Messages are handed out in the order in which they were sent: one after the other, and none before those ahead of it are done."
        ),
    )
    order_scope = models.CharField(
        _("ordered among"),
        max_length=10,
        choices=OrderScope,
        default=OrderScope.KEY,
        db_default=OrderScope.KEY,
        help_text=_("For the built-in store; brokers keep an order in each partition."),
    )
    max_backlog = models.PositiveIntegerField(
        _("backlog at most"),
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(2_000_000_000)],
        help_text=_("When so many messages wait for one of its groups, the built-in store takes no more; 0: no ceiling."),
    )
    ttl_seconds = models.PositiveIntegerField(
        _("time to live (s)"),
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(31_536_000)],
        help_text=_("What a group has not taken by then becomes a dead letter of it, in the built-in store; 0: no limit."),
    )
    max_length = models.PositiveIntegerField(
        _("length at most"),
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(2_000_000_000)],
        help_text=_("When more messages wait for a group, the oldest become dead letters of it, in the built-in store; 0: no limit."),
    )
    retention = models.CharField(
        _("messages go"),
        max_length=10,
        choices=Retention,
        default=Retention.STORE,
        db_default=Retention.STORE,
        help_text=_(
            "In the built-in store. “When all groups are done” loses nothing that a group still waits for;"
            " “by age and size alone” does: what a group has not taken by then is skipped."
        ),
    )
    retention_hours = models.PositiveIntegerField(
        _("kept for (hours)"),
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(87_600)],
        help_text=_(
            "So long a message stays, and then it goes; 0: no age. With neither age nor size it goes as soon as all groups are done."
        ),
    )
    retention_mib = models.PositiveIntegerField(
        _("size at most (MiB)"),
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(1_000_000_000)],
        help_text=_("Beyond it the oldest go before their age; estimated from samples. 0: any size."),
    )
    cluster = models.ForeignKey(Cluster, models.PROTECT, null=True, editable=False, related_name="topics", verbose_name=_("cluster"))

    objects = TopicQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name = _("topic")
        verbose_name_plural = _("topics")
        permissions = [
            ("approve_topic", _("Can approve, reject and allocate topics")),
            ("retire_topic", _("Can retire topics")),
            ("move_topic", _("Can move topics between clusters")),
        ]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def path_of(name: str) -> str:
        """The node of the one with this name."""
        return f"/zms/topic/{name}"

    @property
    def zookeeper_path(self) -> str:
        """The node that SDKs read."""
        return self.path_of(self.name)


class Draining(models.Model):
    """A cluster that a topic has left, and that may still hold messages of it: its groups go on pulling from there."""

    topic = models.ForeignKey(Topic, models.CASCADE, related_name="draining", verbose_name=_("topic"))
    cluster = models.ForeignKey(Cluster, models.PROTECT, related_name="draining", verbose_name=_("cluster"))
    left_at = models.DateTimeField(_("left"))
    until = models.DateTimeField(_("until"), null=True)  # None: until it is proven, or somebody says that it is drained

    objects = DrainingQuerySet.as_manager()

    class Meta:
        ordering = ["topic", "cluster__name"]
        default_permissions = ()  # who sees a topic sees it, who moves a topic ends it
        verbose_name = _("cluster being drained")
        verbose_name_plural = _("clusters being drained")
        constraints = [models.UniqueConstraint(fields=["topic", "cluster"], name="one_draining_per_topic_and_cluster")]

    def __str__(self) -> str:
        return f"{self.topic.name}: {self.cluster.name}"
