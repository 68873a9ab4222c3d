"""Physical clusters that topics are allocated to."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from core.scope import Principal, ScopedQuerySet


class Kind(models.TextChoices):
    """Broker kinds; the values stand in ZooKeeper as brokerType."""

    BUILTIN = "builtin", _("Built-in store")
    KAFKA = "kafka", "Kafka"
    ROCKETMQ = "rocketmq", "RocketMQ"
    RABBITMQ = "rabbitmq", "RabbitMQ"


class ClusterQuerySet(ScopedQuerySet["Cluster"]):
    """Clusters."""

    def own(self, user: Principal) -> Q:  # noqa: ARG002
        """A cluster belongs to no application: who may not see all sees none."""
        return Q(pk__in=[])


class Cluster(models.Model):
    """A cluster as SDKs are told about it; the built-in store is the cluster `builtin`."""

    name = models.CharField(
        _("name"), max_length=120, unique=True, help_text=_("Becomes the node /zms/cluster/NAME and cannot be changed.")
    )
    kind = models.CharField(_("kind"), max_length=10, choices=Kind)
    address = models.CharField(
        _("address"),
        max_length=2000,
        blank=True,
        help_text=_("Kafka and RabbitMQ: host:port,host:port. RocketMQ name servers: host:port;host:port."),
    )
    proxy_address = models.CharField(
        _("proxy address"),
        max_length=2000,
        blank=True,
        default="",
        db_default="",  # a process that does not know it yet adds clusters, too
        help_text=_("RocketMQ only: the gRPC proxies, host:port;host:port. Python applications need them; Java clients do not."),
    )
    description = models.CharField(_("description"), max_length=500, blank=True)
    # What an operator says that it takes; empty: nobody knows, which is not the same as no end.
    max_topics = models.PositiveIntegerField(_("topics at most"), null=True, blank=True)
    max_rate = models.PositiveIntegerField(_("messages per second at most"), null=True, blank=True)
    max_bytes_per_second = models.PositiveBigIntegerField(_("bytes per second at most"), null=True, blank=True)
    max_partitions = models.PositiveIntegerField(_("partitions at most"), null=True, blank=True)
    version = models.PositiveIntegerField(default=1, editable=False)
    created_at = models.DateTimeField(_("created"), db_default=Now(), editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    objects = ClusterQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name = _("cluster")
        verbose_name_plural = _("clusters")
        constraints = [
            models.CheckConstraint(condition=~models.Q(kind="builtin") | models.Q(name="builtin"), name="builtin_cluster_is_named_so")
        ]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def path_of(name: str) -> str:
        """The node of the one with this name."""
        return f"/zms/cluster/{name}"

    @property
    def zookeeper_path(self) -> str:
        """The node that SDKs read."""
        return self.path_of(self.name)
