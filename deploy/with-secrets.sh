#!/bin/sh
# Give a command its secrets from files: NAME_FILE=/run/secrets/x becomes NAME=<content of x>.
# Only this process and its children see them; `docker inspect` and the compose file show a path. Files elsewhere
# (SSL_CERT_FILE and its like) are somebody else's, as is what the AWS SDKs read themselves.
set -eu
folder="${SECRETS_FOLDER:-/run/secrets}"
for assignment in $(env | grep -E "^[A-Z][A-Z0-9_]*_FILE=$folder/" | cut -d= -f1); do
    name="${assignment%_FILE}"
    case "$name" in AWS_SHARED_CREDENTIALS | AWS_CONFIG) continue ;; esac
    eval "path=\$$assignment"
    [ -r "$path" ] || { echo "with-secrets: cannot read $path, named by $assignment" >&2; exit 78; }
    export "$name=$(cat "$path")"
done
exec "$@"
