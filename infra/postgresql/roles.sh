#!/usr/bin/env bash
# Create the role and database of illada, once, on a new PostgreSQL: an init script of the official image, and usable by
# hand as any superuser:  ILLADA_PASSWORD=... PGHOST=... bash roles.sh
# The role owns its database and nothing else: illada makes its tables, and DBOS its schema, by themselves.
set -euo pipefail
: "${ILLADA_PASSWORD:?set ILLADA_PASSWORD to the password of the role illada}"

psql -v ON_ERROR_STOP=1 --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres <<'SQL'
\getenv password ILLADA_PASSWORD
CREATE ROLE illada LOGIN PASSWORD :'password' NOSUPERUSER NOCREATEROLE NOCREATEDB;
CREATE DATABASE illada OWNER illada ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE illada FROM PUBLIC;
SQL
