"""PostgreSQL: a key is there for its tenant, and for whoever shows it."""

from django.db import migrations

from tokens.models.wall import SHOWN_KEY, behind_the_wall, seen_by_its_key


class Migration(migrations.Migration):
    dependencies = [("api", "0001_initial"), ("tokens", "0004_row_level_security")]

    operations = [
        behind_the_wall("api_apikey"),
        seen_by_its_key("api_apikey", condition=f"digest = {SHOWN_KEY}"),
        seen_by_its_key(
            "tokens_tenant",
            condition=f"id IN (SELECT tenant_id FROM api_apikey WHERE digest = {SHOWN_KEY})",
        ),
    ]
