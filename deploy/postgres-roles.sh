#!/bin/sh
# Runs once, when the PostgreSQL container makes its database: the role that the service
# connects as. It owns nothing, so that row-level security holds for it; `oauthvault init`
# gives it its rights as the owner.
set -eu
psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 \
    --set password="$(cat /run/secrets/service_password)" \
    --username "$POSTGRES_USER" --dbname "$POSTGRES_DB" <<'SQL'
CREATE ROLE oauthvault_service LOGIN PASSWORD :'password'
    NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE;
SQL
