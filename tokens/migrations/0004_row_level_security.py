"""PostgreSQL: a row is there for its tenant only, whoever forgets to ask for the tenant."""

from django.db import migrations

from tokens.models.wall import behind_the_wall

_OF_A_TENANT = (
    "claude_oauth_tokens",
    "tokens_auditevent",
    "tokens_datakey",
    "tokens_handout",
    "tokens_handouttally",
    "tokens_refreshattempt",
    "tokens_refreshtally",
    "tokens_tenantstatistics",
    "tokens_tokenfingerprint",
)


class Migration(migrations.Migration):
    dependencies = [("tokens", "0003_announce_what_is_held")]

    operations = [
        behind_the_wall("tokens_tenant", tenant_column="id"),
        *(behind_the_wall(table) for table in _OF_A_TENANT),
    ]
