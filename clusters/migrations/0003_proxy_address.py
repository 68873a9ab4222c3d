"""Where the gRPC proxies of a RocketMQ cluster are."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('clusters', '0002_limits'),
    ]

    operations = [
        migrations.AddField(
            model_name='cluster',
            name='proxy_address',
            field=models.CharField(blank=True, db_default='', default='', help_text='RocketMQ only: the gRPC proxies, host:port;host:port. Python applications need them; Java clients do not.', max_length=2000, verbose_name='proxy address'),
        ),
    ]
