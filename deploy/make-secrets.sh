#!/bin/sh
# Make every secret of compose.yaml once, at random: deploy/secrets/. What exists is left as it is.
# The folder is closed to others; the files are not, because a container's user has another number.
set -eu
folder="${1:-$(dirname "$0")/secrets}"
umask 077
mkdir -p "$folder"
word() { python3 -c 'import secrets; print(secrets.token_urlsafe(24), end="")'; }
keep() { [ -e "$folder/$1" ] || { cat > "$folder/$1"; chmod 0444 "$folder/$1"; }; }

for name in postgres_password mlflow_db_password prefect_db_password backup_db_password \
    mlflow_flask_key mlflow_admin_password mlflow_worker_password; do
    word | keep "$name"
done
printf 'bhpeft:%s' "$(word)" | keep prefect_auth

identity() { # name, actions
    [ -e "$folder/aws_$1" ] && return
    key="$1-$(word | cut -c1-12)" secret="$(word)"
    printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$key" "$secret" | keep "aws_$1"
}
identity admin; identity mlflow; identity worker; identity producer
python3 - "$folder" <<'PY' | keep s3.json
import configparser, json, pathlib, sys

ACTIONS = {
    "admin": ["Admin"],
    "mlflow": ["Read:mlflow", "Write:mlflow", "List:mlflow", "Tagging:mlflow"],
    "worker": ["Read:landing", "List:landing"],  # reads batches, and cannot change one
    "producer": ["Read:landing", "Write:landing", "List:landing"],
}
identities = []
for name, actions in ACTIONS.items():
    file = configparser.ConfigParser()
    file.read(pathlib.Path(sys.argv[1], f"aws_{name}"))
    keys = file["default"]
    credentials = [{"accessKey": keys["aws_access_key_id"], "secretKey": keys["aws_secret_access_key"]}]
    identities.append({"name": name, "credentials": credentials, "actions": actions})
print(json.dumps({"identities": identities}, indent=2))
PY
echo "secrets are in $folder"
