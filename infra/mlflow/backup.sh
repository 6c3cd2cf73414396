#!/bin/sh
# backup.sh FOLDER: the database and the artefacts as they are now, into FOLDER/<time>; the newest 14 stay.
# In that order: a run's files are written before its rows say so, so that every row of the dump has its files.
# Reads $DATABASE_URI (postgresql://…), or PGHOST, PGUSER, ...; $ARTIFACTS is the folder of the artefacts.
set -eu
umask 077
[ $# = 1 ] || { echo "usage: backup.sh FOLDER" >&2; exit 2; }
artifacts=${ARTIFACTS:-/artifacts}
[ -d "$artifacts" ] || { echo "backup.sh: $artifacts does not exist: set ARTIFACTS" >&2; exit 66; }
target=$1/$(date -u +%Y%m%dT%H%M%SZ)
mkdir -p "$target.part"
pg_dump --format=custom --no-owner --file="$target.part/database.dump" ${DATABASE_URI:+"$DATABASE_URI"}
tar -C "$artifacts" -cf "$target.part/artifacts.tar" .
(cd "$target.part" && sha256sum database.dump artifacts.tar > SHA256SUMS)
mv "$target.part" "$target"
ls -1d "$1"/*Z | sort | head -n -"${KEEP:-14}" | xargs -r rm -rf
echo "$target"
