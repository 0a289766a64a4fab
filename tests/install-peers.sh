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
        dciodvfy) echo dicom3tools ;;
        Orthanc) echo orthanc ;;
        mariadbd | mariadb-install-db) echo mariadb-server ;;
        mariadb) echo mariadb-client ;;
        ps) echo procps ;;
        setcap) echo libcap2-bin ;;
        cc-headers) echo libc6-dev ;;
        chromedriver) echo chromium-driver ;;
        # What the Synology package's Python is built with, and what runs it for another processor:
        readelf) echo binutils ;;
        tclsh) echo tcl ;;
        xz) echo xz-utils ;;
        libtoolize) echo libtool ;;
        ltdl-headers) echo libltdl-dev ;;
        libgcc-arm64) echo libgcc-12-dev-arm64-cross ;;
        libc-arm64) echo libc6-arm64-cross ;;
        qemu-aarch64-static) echo qemu-user-static ;;
        make | perl | tar | patch | autoconf | automake) echo "$1" ;;
        strace | gcc | shellcheck | chromium | nginx | fcgiwrap) echo "$1" ;;
        *) echo "install-peers: which package has $1?" >&2; return 2 ;;
    esac
}

is_there() {
    case "$1" in
        cc-headers) [ -e /usr/include/stdio.h ] ;;
        ltdl-headers) [ -e /usr/include/ltdl.h ] ;;
        libgcc-arm64) [ -e /usr/lib/gcc-cross/aarch64-linux-gnu/12/libgcc.a ] ;;
        libc-arm64) [ -e /usr/aarch64-linux-gnu/lib/libc.so.6 ] ;;
        *) command -v "$1" >/dev/null ;;
    esac
}

if [ $# -eq 0 ]; then
    set -- echoscu storescu findscu movescu getscu storescp dcmqrscp dcmdump gdcmscu dciodvfy Orthanc \
        mariadbd mariadb-install-db mariadb ps setcap strace gcc cc-headers shellcheck \
        chromium chromedriver nginx fcgiwrap
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
    echo "Programs are needed that are not installed here. Run this line, then try again:" >&2
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
