#!/bin/sh
# Runs a command of the pipeline as a RayJob's entrypoint, with its exit code. Another one at work (75) is waited for: three more
# tries, a minute apart. Whatever else fails ends at once: bad data (65), a failed training (70) or bad configuration (78) is mended by
# a person, not by repetition. That a cluster was lost is seen from outside (infra/schedule/cronjob.yaml), and tried anew there.
for attempt in 1 2 3 4; do
  "$@"
  code=$?
  [ "$code" = 75 ] && [ "$attempt" -lt 4 ] || break
  sleep "${RETRY_SECONDS:-60}"
done
exit "$code"
