#!/bin/sh
# Put a backup back: restore.sh BACKUP HOME. HOME must be new or empty; nothing is ever overwritten.
set -eu
[ $# -eq 2 ] || { echo "usage: restore.sh BACKUP HOME" >&2; exit 64; }
backup="$(cd "$1" && pwd)" home="$2"
if [ -d "$home" ] && [ -n "$(ls -A "$home")" ]; then
    echo "restore.sh: $home is not empty; restore into a new folder and move it there yourself" >&2
    exit 73
fi
(cd "$backup" && sha256sum --check --quiet SHA256SUMS) || { echo "restore.sh: $backup is not whole" >&2; exit 65; }
mkdir -p "$home"
cp -a "$backup/." "$home/"
rm "$home/SHA256SUMS"
echo "restored to $home; artefacts are named by absolute paths, so it must lie where it lay: see docs/operations.md"
