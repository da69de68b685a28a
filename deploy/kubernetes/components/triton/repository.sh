#!/bin/sh
# Make Triton's model repository from the package that was trained first, unless there is one: `guardline promote` puts
# further versions into it, which a restart must not undo. Run before Triton by docker-compose.yml and by the pod.
set -eu
repository=$GUARDLINE_TRITON_REPOSITORY
test ! -d "$repository" || exit 0
test -d "$GUARDLINE_MODEL/encoder" || { echo "no package at $GUARDLINE_MODEL: train one first" >&2; exit 1; }

# Complete or not there at all.
new=$repository.new
rm -rf "$new"
mkdir -p "$new"
for graph in encoder verifier; do
  test ! -d "$GUARDLINE_MODEL/$graph" || cp -R "$GUARDLINE_MODEL/$graph" "$new/"
done
mv "$new" "$repository"
