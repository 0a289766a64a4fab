# shellcheck shell=sh
# Sourced by spksrc's installer and start-stop-status: the functions are called by their names, the variables read.
# shellcheck disable=SC2034

PATH="${SYNOPKG_PKGDEST}/env/bin:/var/packages/python314/target/bin:${PATH}"
ANGIOVAULT="${SYNOPKG_PKGDEST}/bin/angiovault"

# The supervisor writes into spksrc's log file as well, which is the same.
SERVICE_COMMAND="${ANGIOVAULT} dsm supervise"
SVC_BACKGROUND=y
SVC_WRITE_PID=y
SVC_KEEP_LOG=y

# Run a command as the package's user: on DSM 6 the installer is root. spksrc calls that user sc-angiovault.
as_service_user ()
{
    if [ "$(id -u)" -ne 0 ]; then
        "$@"
    else
        python3 -I -c '
import os, pwd, sys
user = pwd.getpwnam(sys.argv[1])
os.initgroups(user.pw_name, user.pw_gid)
os.setgid(user.pw_gid)
os.setuid(user.pw_uid)
os.execv(sys.argv[2], sys.argv[2:])' "${EFF_USER}" "$@"
    fi
}

# The settings must be the service's own to be replaced at once; links could name anybody's file.
give_settings ()
{
    if [ "$(id -u)" -eq 0 ]; then
        find "${INST_ETC}/" \( -type d -o -type f -links 1 \) -exec chown -h "${EFF_USER}" {} \;
    fi
}

service_postinst ()
{
    install_python_virtualenv
    install_python_wheels --no-index
    python3 -m pip install --no-index --no-deps --disable-pip-version-check "${SYNOPKG_PKGDEST}"/share/angiovault/*.whl
    # Where our own package has its Python: the command and the panel start it by this path.
    ln -sfn env "${SYNOPKG_PKGDEST}/python"

    mkdir -p "${INST_ETC}"
    give_settings
    as_service_user "${ANGIOVAULT}" dsm install >>"${SYNOPKG_TEMP_LOGFILE}"

    # The firewall's list of services shows the port that was chosen.
    entry="${SYNOPKG_PKGDEST}/conf/angiovault.sc"
    port=$(as_service_user "${ANGIOVAULT}" dsm show port) &&
        text=$(sed "s/^dst\.ports=.*/dst.ports=\"${port}\/tcp\"/" "${entry}") &&
        printf '%s\n' "${text}" >"${entry}"
}

# Every upgrade calls this, too.
service_preuninst ()
{
    if [ "${SYNOPKG_PKG_STATUS}" = "UNINSTALL" ]; then
        as_service_user "${ANGIOVAULT}" dsm uninstall >>"${SYNOPKG_TEMP_LOGFILE}"
    fi
}
