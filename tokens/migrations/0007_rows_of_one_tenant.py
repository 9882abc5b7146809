"""PostgreSQL: what points to a credential, or to a data key, is of the same tenant as that is.

Django's foreign keys know no tenant, and are checked past row-level security: without these a
row of one tenant could point to another tenant's, and keep it from being deleted.
"""

from django.db import migrations

from tokens.models.wall import OnPostgreSQL, points_within_its_tenant

_PARENTS = ("claude_oauth_tokens", "tokens_datakey")
_POINTERS = (
    ("tokens_refreshattempt", "credential_id", "claude_oauth_tokens"),
    ("tokens_handout", "credential_id", "claude_oauth_tokens"),
    ("tokens_tokenfingerprint", "credential_id", "claude_oauth_tokens"),
    ("claude_oauth_tokens", "data_key_id", "tokens_datakey"),
)


class Migration(migrations.Migration):
    dependencies = [("tokens", "0006_tenant_settings")]

    operations = [
        *(
            OnPostgreSQL(
                sql=f"ALTER TABLE {table} ADD CONSTRAINT {table}_of_tenant UNIQUE (tenant_id, id)",
                reverse_sql=f"ALTER TABLE {table} DROP CONSTRAINT {table}_of_tenant",
            )
            for table in _PARENTS
        ),
        *(points_within_its_tenant(*pointer) for pointer in _POINTERS),
    ]
