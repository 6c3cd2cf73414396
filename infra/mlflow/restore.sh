#!/bin/sh
# restore.sh FOLDER/<time>: into an empty database and an empty folder of artefacts; the server is down meanwhile.
# Reads $DATABASE_URI, or PGHOST, PGUSER, ...; $ARTIFACTS is the folder of the artefacts.
set -eu
umask 077
[ $# = 1 ] || { echo "usage: restore.sh FOLDER/<time>" >&2; exit 2; }
artifacts=${ARTIFACTS:-/artifacts}
[ -f "$1/SHA256SUMS" ] || { echo "restore.sh: $1 is no whole backup" >&2; exit 66; }
(cd "$1" && sha256sum --check --quiet SHA256SUMS) || { echo "restore.sh: $1 is damaged: take another one" >&2; exit 65; }
mkdir -p "$artifacts"
[ -z "$(ls -A "$artifacts")" ] || { echo "restore.sh: $artifacts is not empty: nothing is overwritten" >&2; exit 73; }
tables=$(psql -At ${DATABASE_URI:+"$DATABASE_URI"} -c "select count(*) from information_schema.tables where table_schema = 'public'")
[ "$tables" = 0 ] || { echo "restore.sh: the database has $tables tables: nothing is overwritten" >&2; exit 73; }
pg_restore --no-owner --exit-on-error --single-transaction --dbname="${DATABASE_URI:-$PGDATABASE}" "$1/database.dump"
tar -C "$artifacts" -xf "$1/artifacts.tar"
echo "restored $1"
