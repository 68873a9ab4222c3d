"""A name alone finds its entries too: it comes first in the index of a thing's history."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):

    atomic = False

    dependencies = [
        ('audit', '0003_indexes'),
    ]

    operations = [
        AddIndexConcurrently(model_name='auditentry', index=models.Index(fields=['name', 'kind', '-id'], name='audit_thing')),
        RemoveIndexConcurrently(model_name='auditentry', name='audit_target'),
    ]
