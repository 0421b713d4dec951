#!/bin/sh
# Back up one machine's home, while it runs: backup.sh HOME TARGET makes TARGET/<time>/.
# Databases first: every version they name has its files by then, since files are stored before entries.
# Do not run `bhpeft gc` at the same time.
set -eu
[ $# -eq 2 ] || { echo "usage: backup.sh HOME TARGET" >&2; exit 64; }
home="$(cd "$1" && pwd)" target="$2"
umask 077
mkdir -p "$target"
target="$(cd "$target" && pwd)"
new="$target/$(date -u +%Y%m%dT%H%M%SZ)"
part="$target/.unfinished"
rm -rf "$part"
mkdir "$part"
for database in mlflow.db .bhpeft/prefect/prefect.db; do
    [ -e "$home/$database" ] || continue
    mkdir -p "$part/$(dirname "$database")"
    # SQLite's own backup: whole even while a server writes, which a copy of the file is not.
    python3 - "$home/$database" "$part/$database" <<'PY'
import sqlite3, sys
source, target = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True), sqlite3.connect(sys.argv[2])
source.backup(target)
assert target.execute("pragma integrity_check").fetchone() == ("ok",), "the copy is not whole"
target.execute("pragma journal_mode = delete")
target.close()
PY
done
for folder in mlartifacts streams deploy/streams data_contracts landing quarantine; do
    [ -d "$home/$folder" ] || continue
    mkdir -p "$part/$(dirname "$folder")"
    cp -a "$home/$folder" "$part/$folder"
done
(cd "$part" && find . -type f ! -name SHA256SUMS -print0 | sort -z | xargs -0 sha256sum > SHA256SUMS)
mv "$part" "$new"
echo "$new"
