#!/bin/sh
# MLflow with PostgreSQL, login and artefacts through the server. The container's command; the tests run it too, without a container.
# Secrets are files in $SECRETS: database_password, admin_password, session_key. They reach MLflow by environment and by a file that
# its user alone reads, never by its command line.
set -eu
umask 077
secrets=${SECRETS:-/run/secrets}
state=${STATE:-/tmp/mlflow}
mkdir -p "$state"

read_secret() {
  [ -s "$secrets/$1" ] || { echo "serve.sh: $secrets/$1 does not exist or is empty: see docs/mlflow.md" >&2; exit 66; }
  tr -d '\n' < "$secrets/$1"
}

# In a URI, and doubled for ConfigParser, which takes % for itself.
encoded=$(read_secret database_password | python -c 'import sys, urllib.parse; print(urllib.parse.quote(sys.stdin.read(), safe=""))')
database="postgresql+psycopg2://${DATABASE_USER:-mlflow}:$encoded@${DATABASE_HOST:-database}:${DATABASE_PORT:-5432}/${DATABASE_NAME:-mlflow}"
cat > "$state/auth.ini" <<INI
[mlflow]
default_permission = EDIT
database_uri = $(printf %s "$database" | sed 's/%/%%/g')
admin_username = ${ADMIN_USER:-admin}
admin_password = $(read_secret admin_password | sed 's/%/%%/g')
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
INI

MLFLOW_BACKEND_STORE_URI=$database
MLFLOW_AUTH_CONFIG_PATH=$state/auth.ini
MLFLOW_FLASK_SERVER_SECRET_KEY=$(read_secret session_key)
export MLFLOW_BACKEND_STORE_URI MLFLOW_AUTH_CONFIG_PATH MLFLOW_FLASK_SERVER_SECRET_KEY
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true
export MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE=300
exec python -m mlflow server --app-name basic-auth --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" --workers "${WORKERS:-2}" \
  --artifacts-destination "${ARTIFACTS:-/artifacts}" --allowed-hosts "${ALLOWED_HOSTS:-localhost:5000,127.0.0.1:5000,mlflow:5000}"
