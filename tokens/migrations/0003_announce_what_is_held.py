"""Logins that were imported before their end was announced."""

from django.db import migrations
from django.db.models import F

_FIRST_WARNING = 7 * 86_400


def announce(apps, schema_editor):
    # By the role that migrates: the one that serves has no right to the table yet.
    everything = apps.get_model("tokens", "OAuthCredential").objects
    credentials = everything.using(schema_editor.connection.alias).filter(standing="active")
    credentials.filter(refresh_token_encrypted__isnull=False, login_expires_at__isnull=False).update(
        announce_at=F("login_expires_at") - _FIRST_WARNING
    )
    credentials.filter(refresh_token_encrypted=None).update(
        announce_at=F("expires_at") - _FIRST_WARNING
    )


class Migration(migrations.Migration):
    dependencies = [("tokens", "0002_one_refresh")]
    operations = [migrations.RunPython(announce, migrations.RunPython.noop)]
