#!/usr/bin/env bash
# The first process of a stage, started by `stage.py` in namespaces of its own: lays the root folder out in memory,
# makes it the root of everything here, says "ready" with its process number, and lives until its standard input ends.
#   $1  the folder that becomes /run/mysqld
#   $2  the folder with the programs that stand in for DSM's, and the stage's own
set -eu

# What DSM has of programs, as far as a script may rely on it: POSIX (the shell's own left out) and those that packages
# are known to use there. No Python, no Perl, no mktemp, stat or timeout.
tools="awk basename bash cat chgrp chmod chown cksum cmp comm cp cut date dd df diff dirname du env expr find getconf
    grep gzip head id join kill ln logger ls mkdir mkfifo mv nice nohup od paste printf ps readlink
    rm rmdir sed setsid sleep sort split tail tar tee touch tr tty uname uniq wc who xargs"
own_tools="dash mount setpriv umount"

root=/mnt
mount -t tmpfs -o mode=755 stage "$root"
cd "$root"

mkdir -p usr/bin usr/sbin usr/lib/x86_64-linux-gnu usr/lib64 usr/local/bin usr/local/mariadb10/bin .stage/bin .stage/lib
ln -s usr/bin bin
ln -s usr/sbin sbin
ln -s usr/lib lib
ln -s usr/lib64 lib64
ln -s /lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 usr/lib64/
mount --bind /usr/lib/x86_64-linux-gnu usr/lib/x86_64-linux-gnu
mount -o remount,bind,ro usr/lib/x86_64-linux-gnu
for tool in $tools; do cp -L "$(type -P "$tool")" usr/bin/; done
for tool in $own_tools; do cp -L "$(type -P "$tool")" .stage/bin/; done
ln -s bash usr/bin/sh
cp -L "$(type -P mariadb)" usr/local/mariadb10/bin/mysql
cp -R "$2/." .stage/

mkdir -p dev proc sys run/mysqld root tmp var/log/packages var/run volume1 volume2
chmod 1777 tmp
mknod -m 666 dev/null c 1 3
mknod -m 666 dev/zero c 1 5
mknod -m 666 dev/full c 1 7
mknod -m 666 dev/random c 1 8
mknod -m 666 dev/urandom c 1 9
mknod -m 666 dev/tty c 5 0
ln -s /proc/self/fd dev/fd
mkdir -m 1777 dev/shm
mount --bind "$1" run/mysqld
mount -t sysfs -o ro sysfs sys

read -r pid _ </proc/self/stat # our number outside, as this /proc is still the machine's
mount -t proc proc proc
cp proc/sys/kernel/random/boot_id .stage/boot_id
mount --bind .stage/boot_id proc/sys/kernel/random/boot_id

pivot_root . .
.stage/bin/umount -l .
cd /
echo "ready $pid"
# bash takes in the children of ended processes meanwhile, as every first process must.
while read -r _; do :; done
