#!/var/packages/angiovault/target/python/bin/python3 -IS
"""The door to AngioVault's panel: DSM's web server runs this program for every request, logged in or not.

It asks DSM who is there, lets administrators in and nobody else, and hands their requests to the service's UNIX socket.
Where no panel answers, `angiovault.dsm.stub_page` shows the state and the log instead.

A slow NAS starts this for every click, so it imports little: `subprocess` and `socket` would double its start.
"""

# The C halves of `signal` and `socket`, without enum and selectors.
import _signal as signal  # type: ignore[import-not-found]
import _socket as socket
import grp
import os
import pwd
import select
import sys
import time

PACKAGE = "/var/packages/angiovault"
USER = "angiovault"
AUTHENTICATE = "/usr/syno/synoman/webman/modules/authenticate.cgi"
OWN_STATE = "/stub/state.json"  # never forwarded: the status page looks there for changes

LOGIN_SECONDS = 5.0
ANSWER_SECONDS = 10.0
IDLE_SECONDS = 60.0
LONGEST_BODY = 1 << 20
LONGEST_HEAD = 1 << 16

# What DSM's login check reads of a request, and what the service may see of it: no cookies, no tokens, no user names.
FOR_LOGIN = (
    *("HTTP_COOKIE", "HTTP_HOST", "HTTP_X_FORWARDED_FOR", "HTTP_X_REAL_IP"),
    *("REMOTE_ADDR", "SERVER_ADDR", "SERVER_NAME", "SERVER_PORT"),
)
FOR_SERVICE = (
    *("ACCEPT", "ACCEPT_LANGUAGE", "HOST", "IF_MODIFIED_SINCE", "IF_NONE_MATCH"),
    *("ORIGIN", "RANGE", "SEC_FETCH_SITE", "USER_AGENT", "X_REQUESTED_WITH"),
)
NOT_PASSED_ON = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding"),
    *("upgrade", "status"),
}
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
UNRESERVED = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~")


class Refused(Exception):
    """The request ends here, with an HTTP status; `stub_page` has words for the reason."""

    def __init__(self, status: int, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.status, self.reason, self.detail = status, reason, detail


class Body:
    """The request's body on standard input, which may have no end of its own (RFC 3875 4.2)."""

    def __init__(self, length: str) -> None:
        self.valid = length.isascii() and length.isdigit() and len(length) < 16
        self.length = self.left = int(length) if self.valid else 0

    def read(self) -> bytes:
        """Return the next piece, at the end nothing."""
        data = os.read(0, min(self.left, 65536))
        self.left = self.left - len(data) if data else 0
        return data

    def discard(self) -> None:
        """Read what is left, within reason: web servers take an answer that comes before it for a failure."""
        while self.left > 0 and self.length - self.left < 8 * LONGEST_BODY:
            self.read()


def main() -> None:
    """Answer the request that the environment describes."""
    environ, body = dict(os.environ), Body(os.environ.get("CONTENT_LENGTH") or "0")
    sys.path.append(f"{sys.prefix}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages")
    try:
        check_request(environ, body)
        user = ""
        if not is_static(environ):
            user = logged_in_user(environ)
            if not is_administrator(user):
                raise Refused(403, "not-administrator", user)
        become_package_user()
        panel = look_for_panel() if environ.get("PATH_INFO") == OWN_STATE else forward(environ, user, body)
        if panel != "answered":
            if not user:
                raise Refused(403, "not-logged-in")
            from angiovault.dsm import stub_page

            body.discard()
            send_own(environ, *stub_page.answer(environ, panel))
    except Refused as refused:
        become_package_user()
        from angiovault.dsm import stub_page

        body.discard()
        send_own(environ, *stub_page.refusal(environ, refused.status, refused.reason, refused.detail))


# --- Who may come in ------------------------------------------------------------------------------------------------


def check_request(environ: dict[str, str], body: Body) -> None:
    """Refuse what is no request of a panel's page; nothing is run before."""
    method = environ.get("REQUEST_METHOD", "")
    if method not in ("GET", "HEAD", "POST"):
        raise Refused(405, "method")
    query = environ.get("QUERY_STRING", "")
    if not (query.isascii() and query.isprintable()) or " " in query or not body.valid:
        raise Refused(400, "malformed")
    if body.length > LONGEST_BODY:
        raise Refused(413, "too-large")
    if method == "POST" and environ.get("HTTP_SEC_FETCH_SITE", "same-origin") != "same-origin":
        raise Refused(403, "cross-site")


def is_static(environ: dict[str, str]) -> bool:
    """Whether a file of the panel's shell is asked for: the same for everybody, and it cannot carry a token along."""
    folder, _, name = environ.get("PATH_INFO", "").rpartition("/")
    return folder == "/static" and bool(name) and environ["REQUEST_METHOD"] != "POST"


def logged_in_user(environ: dict[str, str]) -> str:
    """Return the user whose DSM session the request belongs to, as DSM's own login check says."""
    login = {name: environ[name] for name in FOR_LOGIN if name in environ}
    login.update(REQUEST_METHOD="GET", QUERY_STRING=token_of(environ))
    if "HTTP_X_SYNO_TOKEN" in environ:
        login["HTTP_X_SYNO_TOKEN"] = environ["HTTP_X_SYNO_TOKEN"]
    if environ["REQUEST_METHOD"] == "POST" and not login["QUERY_STRING"]:
        raise Refused(403, "no-token")
    status, output = run_login_check(login)
    if status != 0:
        raise Refused(403, "login-failed", str(status))
    try:
        user = output.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Refused(403, "login-odd") from None
    if not user:
        raise Refused(403, "not-logged-in")
    if len(user) > 256 or not user.isprintable() or user != user.strip() or user[0] == "-" or set(user) & set("<>\"'&"):
        raise Refused(403, "login-odd")
    return user


def token_of(environ: dict[str, str]) -> str:
    """Return the SynoToken as a query, from the header or the request's own query; empty if there is none."""
    header = environ.get("HTTP_X_SYNO_TOKEN", "")
    if header:
        return "SynoToken=" + quoted(header)
    parts = environ.get("QUERY_STRING", "").split("&")
    return next((part for part in parts if part.startswith("SynoToken=") and part != "SynoToken="), "")


def run_login_check(environment: dict[str, str]) -> tuple[int, bytes]:
    """Run authenticate.cgi; return its exit code (negative: the signal) and what it printed."""
    reader, writer = os.pipe()
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, writer, 1),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ]
    # A web server that ignores its children has made us ignore ours: their exit codes would be lost.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        child = os.posix_spawn(
            AUTHENTICATE, [AUTHENTICATE], environment, file_actions=actions, setpgroup=0, setsigdef=[signal.SIGPIPE]
        )
    except OSError as error:
        raise Refused(403, "login-unavailable", os.strerror(error.errno or 0)) from None
    os.close(writer)
    output, deadline, open_end = b"", time.monotonic() + LOGIN_SECONDS, True
    while time.monotonic() < deadline and len(output) <= 4096:
        if open_end:
            if select.select([reader], [], [], max(0, deadline - time.monotonic()))[0]:
                data = os.read(reader, 4096)
                output, open_end = output + data, bool(data)
            continue
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status), output
        time.sleep(0.002)  # it has closed its output and ends at once, or stays until the deadline
    os.killpg(child, 9)
    os.waitpid(child, 0)
    raise Refused(403, "login-slow" if len(output) <= 4096 else "login-odd")


def is_administrator(user: str) -> bool:
    """Say whether the user is in DSM's group administrators, also by way of a directory service or as primary group."""
    try:
        group = grp.getgrnam("administrators")
        # By number, as `id -G` does it: names of a directory's groups hold blanks ("backup administrators").
        return user in group.gr_mem or group.gr_gid in os.getgrouplist(user, pwd.getpwnam(user).pw_gid)
    except KeyError:
        return False


def become_package_user() -> None:
    """Give up root's rights: on DSM 6 this file may belong to root, so that it may run the login check."""
    if os.geteuid() == 0:
        account = pwd.getpwnam(USER)
        os.initgroups(USER, account.pw_gid)
        os.setgid(account.pw_gid)
        os.setuid(account.pw_uid)


# --- The service's panel --------------------------------------------------------------------------------------------


def connect_panel() -> socket.socket:
    """Connect to the socket of the panel. Raises OSError when nobody is there."""
    has_var = os.path.isdir(f"{PACKAGE}/var")  # noqa: PTH112 - pathlib is slow to import
    var = f"{PACKAGE}/var" if has_var else f"{PACKAGE}/target/var"  # DSM 7, DSM 6
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(ANSWER_SECONDS)
    connection.connect(f"{var}/panel.sock")
    return connection


def look_for_panel() -> str:
    """Say whether somebody listens: "there" or "absent"."""
    try:
        connect_panel().close()
    except OSError:
        return "absent"
    return "there"


def forward(environ: dict[str, str], user: str, body: Body) -> str:
    """Hand the request to the panel and its answer to the browser.

    Returns "answered", "absent" (no panel) or "silent" (it took the request and did not answer it).
    """
    request = request_head(environ, user, body)
    try:
        connection = connect_panel()
    except OSError:
        return "absent"
    try:
        try:
            connection.sendall(request)
            while environ["REQUEST_METHOD"] == "POST" and (data := body.read()):
                connection.sendall(data)
        except BrokenPipeError:
            pass  # it may answer without reading to the end
        head, start = answer_head(connection)
        body.discard()
    except (OSError, ValueError):
        return "silent"
    send(head)
    connection.settimeout(IDLE_SECONDS)
    while True:
        send(start)  # nothing yet, if the head came alone
        start = connection.recv(65536)
        if not start:
            return "answered"


def request_head(environ: dict[str, str], user: str, body: Body) -> bytes:
    """Write the request's head. As HTTP/1.0, so that the answer ends where the connection does, without chunks."""
    path = "".join("/" if byte == "/" else quoted(byte) for byte in environ.get("PATH_INFO") or "/")
    query = "&".join(part for part in environ.get("QUERY_STRING", "").split("&") if not part.startswith("SynoToken="))
    headers = {name.replace("_", "-"): environ.get(f"HTTP_{name}", "") for name in FOR_SERVICE}
    if environ["REQUEST_METHOD"] == "POST":
        headers["CONTENT-LENGTH"] = str(body.length)
        headers["CONTENT-TYPE"] = environ.get("CONTENT_TYPE", "")
    headers["X-AngioVault-User"] = quoted(user)
    lines = [f"{environ['REQUEST_METHOD']} {path}{'?' if query else ''}{query} HTTP/1.0", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in headers.items() if value]
    if any(ord(sign) < 32 or ord(sign) == 127 for line in lines for sign in line):
        raise Refused(400, "malformed")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")


def answer_head(connection: socket.socket) -> tuple[bytes, bytes]:
    """Read the head of the panel's answer; return it as CGI wants it, and the start of the body.

    Raises ValueError when it is no HTTP.
    """
    head = b""
    while b"\r\n\r\n" not in head:
        data = connection.recv(65536)
        if not data or len(head) > LONGEST_HEAD:
            raise ValueError
        head += data
    head, _, body = head.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdigit() or status[3:4] not in ("", " "):
        raise ValueError
    headers = [line for line in lines if line.partition(":")[0].strip().lower() not in NOT_PASSED_ON]
    given = {line.partition(":")[0].strip().lower() for line in headers}
    headers += [f"{name}: {value}" for name, value in SECURITY.items() if name.lower() not in given]
    return "\r\n".join([f"Status: {status}", *headers, "", ""]).encode("latin-1"), body


# --- Answers --------------------------------------------------------------------------------------------------------


def send_own(environ: dict[str, str], status: str, headers: dict[str, str], body: bytes) -> None:
    """Send an answer of the stub's own."""
    headers = {"Status": status, **headers, **SECURITY, "Content-Length": str(len(body))}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    send(head.encode("ascii") + (b"" if environ.get("REQUEST_METHOD") == "HEAD" else body))


def send(data: bytes) -> None:
    """Write all of it to the web server."""
    while data:
        data = data[os.write(1, data) :]


def quoted(text: str) -> str:
    """Percent-encode all but letters, digits and -._~ (RFC 3986 2.1)."""
    octets = text.encode("utf-8", "surrogateescape")
    return "".join(chr(octet) if octet in UNRESERVED else f"%{octet:02X}" for octet in octets)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        os._exit(0)  # the browser has gone
