from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('operations', '0002_language'),
    ]

    operations = [
        migrations.AddField(
            model_name='operation',
            name='scopes',
            field=models.JSONField(null=True),
        ),
    ]
