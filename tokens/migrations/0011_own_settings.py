"""A credential may have refresh settings of its own; one that is refreshed only when asked for
is never due."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("tokens", "0010_spool_and_restore")]

    operations = [
        migrations.AddField(
            model_name='oauthcredential',
            name='auto_refresh',
            field=models.BooleanField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='oauthcredential',
            name='refresh_threshold',
            field=models.PositiveIntegerField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='oauthcredential',
            name='max_retries',
            field=models.PositiveSmallIntegerField(editable=False, null=True),
        ),
        migrations.AddField(
            model_name='oauthcredential',
            name='retry_backoff',
            field=models.CharField(choices=[('exponential', 'Exponential'), ('linear', 'Linear'), ('fixed', 'Fixed')], editable=False, max_length=16, null=True),
        ),
        migrations.AddConstraint(
            model_name='oauthcredential',
            constraint=models.CheckConstraint(condition=models.Q(('refresh_due_at', None), ('auto_refresh', None), ('auto_refresh', True), _connector='OR'), name='only_what_is_refreshed_ahead_is_due'),
        ),
    ]
