"""What the home page of the dashboard looks for, whosesoever it is: how refreshes ended of late,
and which access tokens end next."""

from django.db import migrations, models

from tokens.models.wall import OnPostgreSQL


class Migration(migrations.Migration):
    dependencies = [("tokens", "0014_second_factors")]

    operations = [
        migrations.AddIndex(
            model_name='oauthcredential',
            index=models.Index(condition=models.Q(('standing', 'active'), ('suspended_at', None)), fields=['expires_at'], name='credential_next_expiry'),
        ),
        migrations.AddIndex(
            model_name='refreshattempt',
            index=models.Index(fields=['started_at', 'outcome', 'tenant'], name='attempt_by_time'),
        ),
        # How many hours there are (tokens.courses). Without it PostgreSQL takes them for as many
        # as there are attempts, and sorts all of these.
        OnPostgreSQL(
            sql="CREATE STATISTICS attempt_hours ON (floor(started_at / 3600)) "
            "FROM tokens_refreshattempt",
            reverse_sql="DROP STATISTICS attempt_hours",
        ),
    ]
