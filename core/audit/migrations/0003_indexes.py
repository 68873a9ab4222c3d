"""An index for each filter of the audit, and one for its search; built without holding up anybody who writes."""

from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models

from core.audit.search import drop_index, make_index

INDEXES = [
    models.Index(fields=['kind', '-id'], name='audit_kind'),
    models.Index(fields=['actor_name', '-id'], name='audit_person'),
    models.Index(fields=['action', '-id'], name='audit_action'),
    models.Index(fields=['at'], name='audit_time'),
    models.Index(condition=models.Q(('request_id', ''), _negated=True), fields=['request_id', '-id'], name='audit_request'),
    models.Index(condition=models.Q(('address', ''), _negated=True), fields=['address', '-id'], name='audit_address'),
    models.Index(condition=models.Q(('credential', ''), _negated=True), fields=['credential', '-id'], name='audit_credential'),
    models.Index(condition=models.Q(('application', ''), _negated=True), fields=['application', '-id'], name='audit_application'),
]


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('audit', '0002_protected_against_truncate'),
    ]

    operations = [
        *(AddIndexConcurrently(model_name='auditentry', index=index) for index in INDEXES),
        migrations.RunPython(make_index, drop_index),
    ]
