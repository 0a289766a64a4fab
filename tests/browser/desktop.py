"""A stand-in for DSM's web server: nginx with CGI, DSM's login programs, users and paths, in a root folder of its own.

`ui/index.cgi` runs in it as on a NAS: by its first line, as the owner of the file, at its own paths.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from harness.processes import Background, Server, free_port

REPOSITORY = Path(__file__).parents[2]
PANEL = "/webman/3rdparty/angiovault/index.cgi"
PACKAGE_UID = 64321
SESSIONS = {
    "admin": "session-of-admin",
    "boss": "session-of-boss",
    "王伟": "session-of-wang",
    "visitor": "session-of-visitor",
}
TOKEN = "good./Token"

_USERS = """\
root:x:0:0:root:/root:/bin/sh
angiovault:x:{uid}:{uid}::/:/bin/sh
admin:x:1024:100::/:/bin/sh
boss:x:1026:101::/:/bin/sh
王伟:x:1027:100::/:/bin/sh
visitor:x:1028:100::/:/bin/sh
"""
_GROUPS = """\
root:x:0:
users:x:100:
administrators:x:101:admin,王伟
backup administrators:x:102:visitor
angiovault:x:{uid}:
"""

# What the program knows: sessions by cookie; a token is asked for when the file `insist` is there.
_AUTHENTICATE = """\
#!/bin/sh
/usr/bin/env >/usr/syno/seen/environment
if read line; then echo "stdin: $line" >>/usr/syno/seen/environment; fi
read mode </usr/syno/mode
case $mode in
    failing) exit 3 ;;
    silent) exit 0 ;;
    hanging) exec /bin/sleep 100 ;;
    lingering) echo admin; exec >&-; exec /bin/sleep 100 ;;
    two-lines) printf 'admin\\nadmin\\n'; exit 0 ;;
    html) printf '<html><body>admin</body></html>'; exit 0 ;;
    endless) exec /usr/bin/yes admin ;;
    insisting)
        case "$HTTP_X_SYNO_TOKEN $QUERY_STRING" in
            "good./Token "* | *"SynoToken=good.%2FToken" | *"SynoToken=good./Token") ;;
            *) exit 0 ;;
        esac ;;
esac
case "$HTTP_COOKIE" in
    *id=session-of-admin*) echo admin ;;
    *id=session-of-boss*) printf boss ;;
    *id=session-of-wang*) printf '王伟\\r\\n' ;;
    *id=session-of-visitor*) echo visitor ;;
esac
"""
_LOGIN = """\
#!/bin/sh
printf 'Content-Type: application/json\\r\\n\\r\\n'
read answers </usr/syno/token-from
case "$answers $HTTP_COOKIE" in
    {kind}*id=session-of-*) printf '%s' '{answer}' ;;
    *) printf '%s' '{{"success": false}}' ;;
esac
"""
_WEBAPI = _LOGIN.format(kind="webapi", answer=json.dumps({"data": {"synotoken": TOKEN}, "success": True}))
_LOGIN_CGI = _LOGIN.format(kind="login", answer=json.dumps({"SynoToken": TOKEN, "result": "success", "success": True}))

# The desktop opens a window of the type "legacy": an iframe with the URL of ui/config.
_DESKTOP = f"""<!DOCTYPE html><html><head><meta charset="utf-8"><title>DSM</title>
<script>function _S(name) {{ return {{SynoToken: document.documentElement.dataset.token || "",
lang: document.documentElement.dataset.lang || "enu"}}[name]; }}</script>
</head><body><iframe id="window" title="AngioVault" src="{PANEL}/" width="940" height="700"></iframe></body></html>
"""

_NGINX = """\
daemon off;
worker_processes 1;
pid /scratch/nginx.pid;
error_log stderr;
events {{ }}
http {{
    access_log off;
    default_type application/octet-stream;
    types {{ text/html html; text/css css; application/javascript js; }}
    client_body_temp_path /scratch/body;
    fastcgi_temp_path /scratch/fastcgi;
    proxy_temp_path /scratch/proxy;
    uwsgi_temp_path /scratch/uwsgi;
    scgi_temp_path /scratch/scgi;
    client_max_body_size 8m;
    server {{
        listen 127.0.0.1:{port};
        root /usr/syno/synoman;
        location / {{ index index.html; }}
        location ~ \\.cgi(/|$) {{
            fastcgi_split_path_info (?s)^(.+?\\.cgi)(/.*)?$;
            fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name;
            fastcgi_param SCRIPT_NAME $fastcgi_script_name;
            fastcgi_param PATH_INFO $fastcgi_path_info;
            fastcgi_param QUERY_STRING $query_string;
            fastcgi_param REQUEST_METHOD $request_method;
            fastcgi_param CONTENT_TYPE $content_type;
            fastcgi_param CONTENT_LENGTH $content_length;
            fastcgi_param REQUEST_URI $request_uri;
            fastcgi_param SERVER_PROTOCOL $server_protocol;
            fastcgi_param REMOTE_ADDR $remote_addr;
            fastcgi_param REMOTE_PORT $remote_port;
            fastcgi_param SERVER_ADDR $server_addr;
            fastcgi_param SERVER_PORT $server_port;
            fastcgi_param SERVER_NAME $server_name;
            fastcgi_pass unix:/scratch/fcgi.sock;
        }}
    }}
}}
"""

# In a mount namespace of its own the folder gets the system's programs; on TERM both servers end.
_START = """\
set -eu
root=$1
PATH=/usr/sbin:/usr/bin:/sbin:/bin
for place in bin lib lib32 lib64 libx32 sbin; do
    if [ -h "/$place" ]; then ln -sfn "usr/$place" "$root/$place"
    elif [ -d "/$place" ]; then mkdir -p "$root/$place"; mount --rbind "/$place" "$root/$place"; fi
    if [ -d "/usr/$place" ]; then mkdir -p "$root/usr/$place"; mount --rbind "/usr/$place" "$root/usr/$place"; fi
done
for place in usr/share dev proc; do mkdir -p "$root/$place"; mount --rbind "/$place" "$root/$place"; done
mkdir -p "$root/stdlib"
mount --bind "$2" "$root/stdlib"
umask 0
chroot --userspec="$3" "$root" fcgiwrap -f -c 2 -s unix:/scratch/fcgi.sock &
fcgi=$!
chroot --userspec="$4" "$root" nginx -c /scratch/nginx.conf &
trap 'kill $fcgi $!; wait; exit 0' TERM
wait
"""


class Reply(NamedTuple):
    """An answer of the web server."""

    status: int
    headers: dict[str, str]
    text: str


class Desktop(Server):
    """DSM's web server with the package's `ui` in it; `cgi_user` owns index.cgi and so runs it."""

    def __init__(self, *, cgi_user: str = "angiovault") -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="angiovault-dsm-"))
        self.root.chmod(0o755)
        self.package = self.root / "var/packages/angiovault"
        self.var = self.package / "var"
        self.port = free_port()
        self._uid = PACKAGE_UID if cgi_user == "angiovault" else 0
        self._lay_out()

    def start(self) -> Self:
        stdlib = sysconfig.get_path("stdlib")
        user = f"{self._uid}:{self._uid}"
        nginx_user = f"{PACKAGE_UID}:{PACKAGE_UID}"
        arguments = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _START, "start"]
        self._background = Background([*arguments, self.root, stdlib, user, nginx_user], log=self.root / "scratch/log")
        self.background.wait_ready(self._answers)
        return self

    def remove(self) -> None:
        """End the servers and remove the folder."""
        self.kill()
        shutil.rmtree(self.root)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self.remove()

    def request(
        self,
        path: str = "/",
        *,
        method: str = "GET",
        user: str | None = None,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
    ) -> Reply:
        """Ask the panel; `user` is whose session cookie goes along."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        cookie = {"Cookie": f"stay=1; id={SESSIONS[user]}"} if user else {}
        try:
            connection.request(method, PANEL + path, body, {"Accept": "text/html", **cookie, **(headers or {})})
            response: HTTPResponse = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, names, response.read().decode())
        finally:
            connection.close()

    def login_check(self, mode: str) -> None:
        """Have authenticate.cgi work ("normal"), ask for the token ("insisting") or fail in one of its ways."""
        (self.root / "usr/syno/mode").write_text(mode + "\n")

    def token_from(self, place: str) -> None:
        """Give the SynoToken at one place only: "webapi", "login" or "nowhere"."""
        (self.root / "usr/syno/token-from").write_text(place + "\n")

    @property
    def authenticate(self) -> Path:
        return self.root / "usr/syno/synoman/webman/modules/authenticate.cgi"

    def seen_by_login_check(self) -> dict[str, str]:
        """Return the environment of authenticate.cgi's last run."""
        lines = (self.root / "usr/syno/seen/environment").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def say(self, name: str, content: dict[str, object]) -> None:
        """Write a JSON file as supervisor or service do: at once, for their user only."""
        self.write(f".{name}", json.dumps(content))
        (self.var / f".{name}").replace(self.var / name)

    def write(self, name: str, text: str) -> None:
        """Write a file of the package's user in var."""
        path = self.var / name
        path.write_text(text)
        path.chmod(0o600)
        os.chown(path, PACKAGE_UID, PACKAGE_UID)

    def supervised(self, state: str, **more: object) -> None:
        """Let this process pass as the supervisor, in a state."""
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        self.write("supervisor.pid", f"{os.getpid()} {fields[19]} {boot}\n")
        self.say("supervisor.json", {"pid": os.getpid(), "since": "2026-11-20T08:00:00+00:00", "state": state, **more})

    def healthy(self, **changes: object) -> None:
        """Let this process pass as the service, running and well but for the changes."""
        self.supervised("running", message="", message_zh="", restarts=0)
        health = {"ae_title": "CATHLAB", "bind": "0.0.0.0", "port": 11112, "tls_port": 0, "problems": {}}
        self.say("health.json", {"pid": os.getpid(), "since": "2026-11-20T08:00:05+00:00", **health, **changes})

    def as_new(self) -> None:
        """Forget what a test has changed."""
        for path in self.var.iterdir():
            path.unlink()
        (self.package / "etc/angiovault.ini").unlink(missing_ok=True)
        self.authenticate.write_text(_AUTHENTICATE)
        self.authenticate.chmod(0o755)
        self.login_check("normal")
        self.token_from("webapi")

    def _answers(self) -> bool:
        try:
            return self.request().status == 403
        except OSError:
            return False

    def _lay_out(self) -> None:
        for place in ("usr/syno/seen", "scratch", "tmp"):
            (self.root / place).mkdir(parents=True)
            (self.root / place).chmod(0o777)
        for place in ("etc", "var/packages/angiovault/etc", "var/packages/angiovault/var"):
            (self.root / place).mkdir(parents=True)
        for path in (self.var, self.package / "etc"):
            os.chown(path, PACKAGE_UID, PACKAGE_UID)
        (self.root / "etc/passwd").write_text(_USERS.format(uid=PACKAGE_UID))
        (self.root / "etc/group").write_text(_GROUPS.format(uid=PACKAGE_UID))
        shutil.copy("/etc/ld.so.cache", self.root / "etc/ld.so.cache")
        (self.root / "scratch/nginx.conf").write_text(_NGINX.format(port=self.port))
        self._lay_out_target()
        self._lay_out_dsm()
        self.as_new()

    def _lay_out_target(self) -> None:
        target = self.root / "volume1/@appstore/angiovault"
        shutil.copytree(REPOSITORY / "ui", target / "ui")
        (target / "ui/index.cgi").chmod(0o755)
        os.chown(target / "ui/index.cgi", self._uid, self._uid)
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        library = target / "python/lib" / version
        library.mkdir(parents=True)
        (target / "python/bin").mkdir()
        # A copy of this Python, whose standard library is mounted at /stdlib: it finds itself by its own place.
        shutil.copy(os.path.realpath(sys.executable), target / "python/bin/python3")
        for name in os.listdir(sysconfig.get_path("stdlib")):
            if name != "site-packages":
                (library / name).symlink_to(f"/stdlib/{name}")
        shutil.copytree(
            REPOSITORY / "src/angiovault",
            library / "site-packages/angiovault",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        subprocess.run([sys.executable, "-m", "compileall", "-q", library / "site-packages"], check=True)
        (self.package / "target").symlink_to("/volume1/@appstore/angiovault")

    def _lay_out_dsm(self) -> None:
        web = self.root / "usr/syno/synoman"
        for path, text in {
            "webman/modules/authenticate.cgi": _AUTHENTICATE,
            "webman/login.cgi": _LOGIN_CGI,
            "webapi/entry.cgi": _WEBAPI,
        }.items():
            (web / path).parent.mkdir(parents=True, exist_ok=True)
            (web / path).write_text(text)
            (web / path).chmod(0o755)
        (web / "index.html").write_text(_DESKTOP)
        (web / "webman/3rdparty").mkdir()
        (web / "webman/3rdparty/angiovault").symlink_to("/var/packages/angiovault/target/ui")
