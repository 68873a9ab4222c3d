"""A ceiling of what is in workers' hands."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('consumers', '0003_push'),
    ]

    operations = [
        migrations.AddField(
            model_name='consumergroup',
            name='max_outstanding',
            field=models.PositiveIntegerField(blank=True, db_default=0, default=0, help_text="So many messages may be in the workers' hands at once; 0: no ceiling.", validators=[django.core.validators.MaxValueValidator(100000000)], verbose_name='outstanding at most'),
        ),
    ]
