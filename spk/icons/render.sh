#!/bin/sh
# Render the icons in ui/images anew from the drawing; needs rsvg-convert (Debian: librsvg2-bin). The PNG files are kept
# in the repository, so that a build does not need it.
set -eu
cd "$(dirname "$0")"
for size in 16 24 32 48 64 72 256; do
    rsvg-convert -w "$size" -h "$size" angiovault.svg -o "../../ui/images/angiovault_$size.png"
done
