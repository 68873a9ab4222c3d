"""A ceiling of the backlog."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('topics', '0002_requests'),
    ]

    operations = [
        migrations.AddField(
            model_name='topic',
            name='max_backlog',
            field=models.PositiveIntegerField(blank=True, db_default=0, default=0, help_text='When so many messages wait for one of its groups, the built-in store takes no more; 0: no ceiling.', validators=[django.core.validators.MaxValueValidator(2000000000)], verbose_name='backlog at most'),
        ),
    ]
