#!/bin/sh
# Install the programs that the tests talk to, from the distribution (Debian, Ubuntu), where they are missing.
#
#   sh tests/install-peers.sh              everything the tests need
#   sh tests/install-peers.sh PROGRAM...   only what these programs need
#
# As root it installs them; for anybody else it prints the one line to run and fails.
set -eu

PATH="$PATH:/usr/sbin:/sbin"   # Orthanc and mariadbd lie there, and it is not in every user's path

package_of() {
    case "$1" in
        echoscu | storescu | findscu | movescu | getscu | storescp | dcmqrscp | dcmdump) echo dcmtk ;;
        gdcmscu) echo libgdcm-tools ;;
        Orthanc) echo orthanc ;;
        mariadbd | mariadb-install-db) echo mariadb-server ;;
        cc-headers) echo libc6-dev ;;
        strace | gcc | shellcheck) echo "$1" ;;
        *) echo "install-peers: which package has $1?" >&2; return 2 ;;
    esac
}

is_there() {
    if [ "$1" = cc-headers ]; then
        [ -e /usr/include/stdio.h ]
    else
        command -v "$1" >/dev/null
    fi
}

if [ $# -eq 0 ]; then
    set -- echoscu storescu findscu movescu getscu storescp dcmqrscp dcmdump gdcmscu Orthanc \
        mariadbd mariadb-install-db strace gcc cc-headers shellcheck
fi

missing=""
for program in "$@"; do
    package=$(package_of "$program")
    is_there "$program" && continue
    case " $missing " in
        *" $package "*) ;;
        *) missing="${missing:+$missing }$package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
    echo "The tests need programs that are not installed here. Run this line, then try again:" >&2
    echo "sudo apt-get install -y --no-install-recommends $missing"
    exit 1
fi

echo "installing $missing ..." >&2

# The packages would start their servers (Orthanc takes port 4242, MariaDB 3306). Debian asks this file first, and 101
# means "not allowed"; what an administrator has put there himself is left alone.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
fi

export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >&2
# $missing is a list of words.
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing >&2

for program in "$@"; do
    is_there "$program" || { echo "install-peers: $program is still missing after the installation" >&2; exit 1; }
done
