"""What the API itself keeps: the answers to POSTs that carried an Idempotency-Key."""

from django.db import models
from django.db.models.functions import Now


class IdempotencyKey(models.Model):
    """The answer to one POST, written in the transaction of its effect: a crash leaves neither; kept for 24 hours."""

    credential = models.CharField(max_length=200)  # a key belongs to the credential that sent it
    key = models.CharField(max_length=255)
    request = models.CharField(max_length=500)  # method and address, for people
    digest = models.CharField(max_length=64)  # SHA-256 of method, address and body, in hex
    status = models.PositiveSmallIntegerField()
    headers = models.JSONField(default=dict)
    response = models.TextField()  # JSON as it was sent; secrets are null
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        default_permissions = ()
        constraints = [models.UniqueConstraint(fields=["credential", "key"], name="idempotency_key_per_credential")]
        indexes = [models.Index(fields=["created_at"], name="idempotency_key_age")]  # for throwing old ones away

    def __str__(self) -> str:
        return self.key
