"""Whether the authorization server has named a login's account, or a file only."""

from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('tokens', '0018_lists'),
    ]

    operations = [
        migrations.AddField(
            model_name='oauthcredential',
            name='account_is_confirmed',
            field=models.BooleanField(db_default=False, default=False),
        ),
    ]
