#!/bin/sh
# One step of cross-building CPython and its libraries for glibc 2.17, the oldest that a DSM has.
#
#   build.sh ARCH WORK STEP
#
# Called by __init__.py with the steps in their order, in an otherwise empty environment that sets PATH, LC_ALL=C, TZ=UTC,
# SOURCE_DATE_EPOCH, PYTHONHASHSEED=0, ZIG_GLOBAL_CACHE_DIR, ZIG_LOCAL_CACHE_DIR and
#   ZIG           the compiler
#   LIBGCC        the libgcc.a of ARCH
#   BUILD_PYTHON  a Python 3.13.5 that runs here; for x86_64, the one that is built
#   JOBS          how many compilers may run at once
# The sources lie unpacked and patched in WORK/src/NAME. The result is WORK/out.
#
# Two builds in different folders give the same bytes. So the folder's name may reach neither a command line (OpenSSL and
# CPython keep theirs) nor an object file: what would name it is added by the compiler's wrapper, below.
set -eu

arch=$1 work=$2 step=$3
glibc=2.17
case $arch in
    x86_64) host=x86_64-linux-gnu processor=x86_64 ;;
    aarch64) host=aarch64-linux-gnu processor=generic ;;
    *) echo "build.sh: unknown architecture $arch" >&2; exit 2 ;;
esac
src=$work/src
deps=$work/deps    # the libraries, installed under $deps/usr
tools=$work/tools
out=$work/out
tree=$out/python
lib=$tree/lib/python3.13
installed=/var/packages/angiovault/target/python    # where the tree will lie; it works anywhere else, too

export PATH="$tools:$PATH" CC=clang CXX=clang AR=ar RANLIB=ranlib
hardening="-fstack-protector-strong -D_FORTIFY_SOURCE=2"    # and -pie, below
# Hidden: the libraries' functions must not meet those of other versions that come inside a wheel (OpenSSL's above all).
library_flags="-O2 $hardening -fvisibility=hidden -ffunction-sections -fdata-sections"

do_tools() {
    mkdir -p "$tools" "$deps/usr/include" "$deps/usr/lib"
    for tool in ar ranlib; do
        printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$ZIG" "$tool" >"$tools/$tool"
    done
    # LIBGCC on every link line: without it the first helper function that is needed (128-bit division) brings in zig's
    # compiler_rt, whose own memcpy, log2, exp, fma ... then stand before glibc's: slower, and some are wrong in the last digit.
    # -s last: zig has no working strip. Dates in the code are fine: SOURCE_DATE_EPOCH makes them constant.
    cat >"$tools/clang" <<WRAPPER
#!/bin/sh
link=-pie
for argument; do
    case "\$argument" in
        -c | -E | -S | -M | -MM | -v | -V | --version | -print-* | --print-*) link= ;;
        -shared) link=\${link:+-shared} ;;
    esac
done
[ -z "\$link" ] || set -- "\$link" "\$@" "-L$deps/usr/lib" "$LIBGCC" -s
exec "$ZIG" cc -target $host.$glibc -mcpu=$processor -fPIC -fno-sanitize=undefined -Wno-date-time \\
    "-ffile-prefix-map=$work=." "\$@" -isystem "$deps/usr/include"
WRAPPER
    chmod 755 "$tools"/*
}

do_zlib() {
    cd "$src/zlib"
    CHOST=$host CFLAGS=$library_flags ./configure --static --prefix=/usr
    make -j"$JOBS" libz.a
    cp libz.a "$deps/usr/lib/"
    cp zlib.h zconf.h "$deps/usr/include/"
}

do_bzip2() {
    cd "$src/bzip2"
    make -j"$JOBS" CC="$CC" AR="$AR" RANLIB="$RANLIB" CFLAGS="$library_flags -D_FILE_OFFSET_BITS=64" libbz2.a
    cp libbz2.a "$deps/usr/lib/"
    cp bzlib.h "$deps/usr/include/"
}

do_xz() {
    cd "$src/xz"
    CFLAGS=$library_flags ./configure --host=$host --prefix=/usr --disable-shared --disable-nls --disable-doc \
        --disable-scripts --disable-xz --disable-xzdec --disable-lzmadec --disable-lzmainfo
    make -j"$JOBS" -C src/liblzma install DESTDIR="$deps"
}

do_libffi() {
    cd "$src/libffi"
    autoreconf -fi    # Debian's archive is the repository's snapshot, without configure
    CFLAGS=$library_flags ./configure --host=$host --prefix=/usr --libdir=/usr/lib --disable-shared --disable-docs \
        --disable-multi-os-directory --disable-exec-static-tramp
    make -j"$JOBS" install DESTDIR="$deps"
}

do_sqlite() {
    cd "$src/sqlite"
    # The generator of SQLite's parser runs here, so this part is for the build machine's own compiler.
    CC=gcc AR=/usr/bin/ar RANLIB=/usr/bin/ranlib ./configure --disable-readline
    CC=gcc make sqlite3.c
    # shellcheck disable=SC2086
    "$CC" $library_flags -c sqlite3.c -o sqlite3.o -DSQLITE_THREADSAFE=1 -DSQLITE_ENABLE_FTS4 -DSQLITE_ENABLE_FTS5 \
        -DSQLITE_ENABLE_RTREE -DSQLITE_ENABLE_MATH_FUNCTIONS -DSQLITE_ENABLE_COLUMN_METADATA -DSQLITE_ENABLE_DBSTAT_VTAB \
        -DSQLITE_SECURE_DELETE -DHAVE_FDATASYNC=1 -DHAVE_GMTIME_R=1 -DHAVE_LOCALTIME_R=1
    "$AR" rcs "$deps/usr/lib/libsqlite3.a" sqlite3.o
    cp sqlite3.h sqlite3ext.h "$deps/usr/include/"
}

do_openssl() {
    cd "$src/openssl"
    # The NAS's own openssl.cnf, written for another version, is not read. Its certificates are (in /etc/ssl).
    # shellcheck disable=SC2086
    perl Configure "linux-$arch" --prefix=/usr --libdir=lib --openssldir=/etc/ssl no-autoload-config no-shared no-module \
        no-dso no-engine no-legacy no-apps no-docs no-tests no-comp no-ssl3 no-weak-ssl-ciphers no-afalgeng no-quic no-cmp \
        no-dtls $library_flags
    make -j"$JOBS" build_libs
    make install_dev DESTDIR="$deps"
}

do_python() {
    cd "$src/python"
    set -- --prefix="$installed" --disable-shared --without-ensurepip --disable-test-modules --with-system-libmpdec=no \
        --with-openssl="$deps/usr" --with-ssl-default-suites=openssl --enable-ipv6
    # The x86_64 one is built natively and then builds the other: CPython must be built by its own version.
    [ "$arch" = x86_64 ] || set -- "$@" --host=$host --build=x86_64-linux-gnu --with-build-python="$BUILD_PYTHON"
    # Static modules: one file, nothing to look up at the start. The answers given here are those that configure cannot find
    # out when it cross-builds, or that depend on the machine that it runs on rather than on DSM.
    MODULE_BUILDTYPE=static OPT="-O3 $hardening" PKG_CONFIG=/bin/false \
        ac_cv_file__dev_ptmx=yes ac_cv_file__dev_ptc=no ac_cv_buggy_getaddrinfo=no \
        ac_cv_posix_semaphores_enabled=yes ac_cv_broken_sem_getvalue=no \
        py_cv_module__tkinter=n/a py_cv_module__curses=n/a py_cv_module__curses_panel=n/a py_cv_module_readline=n/a \
        py_cv_module__dbm=n/a py_cv_module__gdbm=n/a \
        ./configure "$@"
    make -j"$JOBS" python pybuilddir.txt
}

do_tree() {
    rm -rf "$tree"
    mkdir -p "$tree/bin" "$lib"
    cp "$src/python/python" "$tree/bin/python3"
    cp -R "$src/python/Lib/." "$lib"
    (
        cd "$lib"
        # What a service on a NAS never needs: tests, windows and terminals, installers, the manual's texts.
        rm -rf test idlelib tkinter turtledemo turtle.py curses dbm ensurepip venv pydoc_data __phello__ \
            site-packages/README.txt
        find . -name __pycache__ -prune -exec rm -rf {} +
        mkdir -p lib-dynload site-packages
        echo "Python looks for this folder when it starts. Its modules, though, are all inside bin/python3." >lib-dynload/README
    )
    # Of the settings of this build, only those stay that say what the program is: the others name this machine's tools.
    "$BUILD_PYTHON" -B - "$src/python/$(cat "$src/python/pybuilddir.txt")" "$lib" <<'PYTHON'
import pathlib, pprint, runpy, sys

build, lib = map(pathlib.Path, sys.argv[1:])
(source,) = build.glob("_sysconfigdata_*.py")
values = runpy.run_path(str(source))["build_time_vars"]
names = "ABIFLAGS EXT_SUFFIX LDVERSION MULTIARCH Py_DEBUG Py_ENABLE_SHARED Py_GIL_DISABLED SIZEOF_VOID_P SOABI TZPATH VERSION"
kept = {name: values[name] for name in names.split()}
(lib / source.name).write_text(f"build_time_vars = {pprint.pformat(kept)}\n")
PYTHON
    # Unchecked: Package Center may write other file times, and the service's user must not write here.
    "$BUILD_PYTHON" -B -m compileall -q -j1 --invalidation-mode unchecked-hash -s "$tree" -p "$installed" "$lib"
}

fail() {
    echo "$1" >&2
    exit 1
}

do_check() {
    program=$tree/bin/python3
    readelf -hW "$program" | grep -q 'Type: *DYN' || fail "not position-independent"
    newest=$(readelf -VW "$program" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
    [ "$(printf '%s\n' "$newest" GLIBC_$glibc | sort -V | tail -n 1)" = GLIBC_$glibc ] || fail "needs $newest"
    if readelf -dW "$program" | grep -E 'RPATH|RUNPATH'; then fail "looks for libraries in a fixed folder"; fi
    symbols=$(objdump -T "$program")
    functions="memcpy log2 exp sin"
    [ "$arch" = aarch64 ] || functions="$functions fma"    # there it is one instruction
    for function in $functions; do
        echo "$symbols" | grep -qE "\*UND\*.*[ )]$function\$" || fail "$function does not come from glibc"
    done
    for module in _ssl _hashlib _sqlite3 zlib _bz2 _lzma _ctypes _socket _decimal _multiprocessing _posixshmem pyexpat \
        _elementtree unicodedata _zoneinfo _codecs_cn _codecs_jp _codecs_kr _codecs_tw _codecs_hk _codecs_iso2022 fcntl \
        grp mmap resource select syslog termios; do
        grep -q "PyInit_$module}" "$src/python/Modules/config.c" || fail "the module $module is missing"
    done
    if grep -rlF "$work" "$out"; then fail "these files name the folder of the build"; fi
}

"do_$step"
