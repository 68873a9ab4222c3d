"""Consumer groups with their subscriptions, and shadow groups for stress tests."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from accounts.models import Application
from consumers.querysets import GroupQuerySet, ShadowQuerySet
from core.approvals.models import Approvable
from core.encryption import EncryptedTextField
from topics.models import Topic


class ConsumeFrom(models.TextChoices):
    """Where a group begins on a topic that already has messages."""

    EARLIEST = "earliest", _("Earliest: everything that is kept")
    LATEST = "latest", _("Latest: what is sent from now on")


class OnExhausted(models.TextChoices):
    """What becomes of a message of an ordered topic that is out of attempts."""

    DEAD_LETTER = "dead_letter", _("it becomes a dead letter, and its key goes on")
    STOP_KEY = "stop_key", _("its key stops until a person decides")


class Balance(models.TextChoices):
    """Which of the workers that wait gets the next messages."""

    SHARED = "shared", _("Shared: whoever asks first")
    STICKY = "sticky", _("Sticky: a sharding key stays with its worker")


class ConsumerGroup(Approvable):
    """A consumer group; every message of its topics has a status in it."""

    class Mode(models.TextChoices):
        CLUSTERING = "clustering", _("Clustering: the workers share the messages")
        BROADCAST = "broadcast", _("Broadcast: every instance gets every message")

    name = models.CharField(
        _("name"), max_length=120, unique=True, help_text=_("Letters, digits and _ . % -, at most 120. It cannot be changed.")
    )
    application = models.ForeignKey(
        Application,
        models.PROTECT,
        related_name="consumer_groups",
        verbose_name=_("application"),
        help_text=_("The application that consumes the messages."),
    )
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="consumer_groups", verbose_name=_("owner"))
    mode = models.CharField(
        _("mode"),
        max_length=12,
        choices=Mode,
        default=Mode.CLUSTERING,
        db_default=Mode.CLUSTERING,
        help_text=_("It cannot be changed once the group is active."),
    )
    instance_ttl_hours = models.PositiveIntegerField(
        _("instance is given up after (hours)"),
        default=168,
        db_default=168,
        validators=[MinValueValidator(1), MaxValueValidator(720)],
        help_text=_("Of a broadcast group: an instance that was not seen for so long loses its position. Until then all is kept for it."),
    )
    consume_from = models.CharField(_("consume from"), max_length=10, choices=ConsumeFrom, default=ConsumeFrom.EARLIEST)
    max_attempts = models.PositiveSmallIntegerField(
        _("attempts at most"),
        default=16,
        validators=[MinValueValidator(1), MaxValueValidator(1000)],
        help_text=_("After so many failed attempts a message becomes a dead letter."),
    )
    backoff_ms = models.PositiveIntegerField(
        _("first retry after (ms)"),
        default=1000,
        validators=[MaxValueValidator(86_400_000)],
        help_text=_("Doubles with every further attempt, up to the longest wait."),
    )
    backoff_max_ms = models.PositiveIntegerField(_("longest wait (ms)"), default=600_000, validators=[MaxValueValidator(86_400_000)])
    push_url = models.CharField(
        _("webhook"),
        max_length=500,
        blank=True,
        help_text=_("An https:// address to which messages are delivered; empty: the group pulls."),
    )
    push_concurrency = models.PositiveSmallIntegerField(
        _("deliveries at once"),
        default=4,
        validators=[MinValueValidator(1), MaxValueValidator(32)],
        help_text=_("Messages with the same sharding key always go one after the other."),
    )
    push_timeout_ms = models.PositiveIntegerField(
        _("answer within (ms)"), default=10_000, validators=[MinValueValidator(100), MaxValueValidator(30_000)]
    )
    max_outstanding = models.PositiveIntegerField(
        _("outstanding at most"),
        default=0,
        db_default=0,
        blank=True,
        validators=[MaxValueValidator(100_000_000)],
        help_text=_("So many messages may be in the workers' hands at once; 0: no ceiling."),
    )
    on_exhausted = models.CharField(
        _("out of attempts"),
        max_length=12,
        choices=OnExhausted,
        default=OnExhausted.DEAD_LETTER,
        db_default=OnExhausted.DEAD_LETTER,
        help_text=_("On ordered topics of the built-in store; on others a message that is out of attempts becomes a dead letter."),
    )
    balance = models.CharField(
        _("load balance"),
        max_length=12,
        choices=Balance,
        default=Balance.SHARED,
        db_default=Balance.SHARED,
        help_text=_("Sticky: workers name themselves when they pull. A key moves when its worker leaves."),
    )
    suspended = models.BooleanField(_("suspended"), default=False, editable=False)
    suspend_reason = models.CharField(max_length=500, blank=True, editable=False)

    objects = GroupQuerySet.as_manager()

    class Meta:
        ordering = ["name"]
        verbose_name = _("consumer group")
        verbose_name_plural = _("consumer groups")
        permissions = [
            ("approve_consumergroup", _("Can approve and reject consumer groups")),
            ("suspend_consumergroup", _("Can suspend and resume consumer groups")),
            ("retire_consumergroup", _("Can retire consumer groups")),
            ("import_consumergroup", _("Can import clusters, topics and consumer groups without a second person")),
        ]

    def __str__(self) -> str:
        return self.name

    @staticmethod
    def path_of(name: str) -> str:
        """The node of the one with this name."""
        return f"/zms/consumergroup/{name}"

    @property
    def zookeeper_path(self) -> str:
        """The node that SDKs read."""
        return self.path_of(self.name)

    @property
    def backoffs_ms(self) -> list[int]:
        """The wait before each retry in milliseconds; the last one holds for all further ones."""
        waits = [self.backoff_ms]
        while len(waits) < min(self.max_attempts, 32) and waits[-1] < self.backoff_max_ms:
            waits.append(min(max(1, waits[-1] * 2), self.backoff_max_ms))
        return waits


class PushSecret(models.Model):
    """What signs the deliveries to a group's webhook; the one before signs too, for a day after a renewal."""

    group = models.OneToOneField(ConsumerGroup, models.CASCADE, primary_key=True, related_name="push_secret")
    secret = EncryptedTextField(_("secret"))
    previous = EncryptedTextField(_("previous secret"), blank=True)
    renewed_at = models.DateTimeField(_("renewed"), db_default=Now())

    class Meta:
        default_permissions = ()
        verbose_name = _("secret of a webhook")
        verbose_name_plural = _("secrets of webhooks")

    def __str__(self) -> str:
        return self.group.name


class Subscription(models.Model):
    """A topic of a group with its tag expression; the first one is ZMS's bindingTopic."""

    group = models.ForeignKey(ConsumerGroup, models.CASCADE, related_name="subscriptions")
    topic = models.ForeignKey(Topic, models.PROTECT, related_name="subscriptions", verbose_name=_("topic"))
    tags = models.CharField(_("tags"), max_length=500, default="*", help_text=_("* for all, or a list like: created || paid"))
    position = models.PositiveSmallIntegerField(editable=False)

    class Meta:
        ordering = ["position"]
        verbose_name = _("subscription")
        verbose_name_plural = _("subscriptions")
        constraints = [
            models.UniqueConstraint(fields=["group", "topic"], name="one_subscription_per_topic"),
            models.UniqueConstraint(fields=["group", "position"], name="subscription_order"),
        ]

    def __str__(self) -> str:
        return f"{self.topic.name}: {self.tags}"


class ShadowTask(models.Model):
    """A shadow group of an application in a stress test: /zpt/APP/TASK/GROUP; off unless switched on, ends by itself."""

    application = models.ForeignKey(Application, models.PROTECT, related_name="shadow_tasks", verbose_name=_("application"))
    task = models.CharField(_("task"), max_length=120, help_text=_("The stress test, for example stress-2026-11."))
    group = models.ForeignKey(ConsumerGroup, models.PROTECT, related_name="shadow_tasks", verbose_name=_("consumer group"))
    topic = models.ForeignKey(Topic, models.PROTECT, related_name="shadow_tasks", verbose_name=_("topic"))
    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.PROTECT, related_name="+", editable=False, verbose_name=_("owner"))
    reason = models.TextField(_("reason"), blank=True, editable=False)
    enabled = models.BooleanField(_("on"), default=False, editable=False)
    lease_until = models.DateTimeField(_("ends by itself"), null=True, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False)
    changed_at = models.DateTimeField(_("changed"), db_default=Now(), editable=False)

    objects = ShadowQuerySet.as_manager()

    class Meta:
        ordering = ["application__name", "task", "group__name"]
        verbose_name = _("shadow group")
        verbose_name_plural = _("shadow groups")
        constraints = [models.UniqueConstraint(fields=["application", "task", "group"], name="one_shadow_task")]
        permissions = [("switch_shadowtask", _("Can switch shadow groups on and off"))]

    def __str__(self) -> str:
        return f"{self.application.name}/{self.task}/{self.group.name}"

    @property
    def zookeeper_path(self) -> str:
        """The node that SDKs read."""
        return f"/zpt/{self.application.name}/{self.task}/{self.group.name}"
