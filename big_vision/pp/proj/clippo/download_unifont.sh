#!/bin/bash
# Fetches all glyphs of GNU Unifont 9.0.06 to the folder of this script, where
# `render_unifont` finds them. UNIFONT_URL may name a mirror.
set -euo pipefail

folder="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
url="${UNIFONT_URL:-https://unifoundry.com/pub/unifont/unifont-9.0.06/font-builds}"

for name in unifont-9.0.06.hex unifont_upper-9.0.06.hex; do
  partial="$(mktemp "$folder/$name.XXXXXX")"
  trap 'rm -f "$partial"' EXIT
  curl --fail --location --retry 3 --silent --show-error "$url/$name.gz" |
    gunzip > "$partial"
  chmod 644 "$partial"
  mv "$partial" "$folder/$name"
  echo "$folder/$name"
done
