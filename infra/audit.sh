#!/bin/sh
# Asks the vulnerability databases about every version of constraints.txt, by pip-audit in an environment of its own.
# Exit code 0: none is known; 1: these are; 69: the databases do not answer here, so nothing was audited.
set -eu
cd "$(dirname "$0")/.."
place=.work/audit
[ -x $place/bin/pip-audit ] || { "${PYTHON:-python3}" -m venv $place && $place/bin/pip install --quiet pip-audit; } || exit 69
code=0
told=$($place/bin/pip-audit --disable-pip --no-deps --requirement constraints.txt --timeout 20 --progress-spinner off 2>&1) || code=$?
echo "$told" | grep -v "could not be audited" || true
pinned=$(grep -c == constraints.txt)
unknown=$(echo "$told" | grep -c "could not be audited" || true)
if [ "$unknown" -gt $((pinned / 2)) ] || echo "$told" | grep -qi "connection\|resolve\|timed out"; then
  echo "audit: the databases do not answer here: $unknown of $pinned packages were not audited" >&2
  exit 69
fi
exit "$code"
