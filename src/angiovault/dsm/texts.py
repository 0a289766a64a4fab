"""Every sentence for the administrator of the NAS, in English and Simplified Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

ENGLISH: Final = 0
CHINESE: Final = 1

_PERMISSIONS: Final = (
    "in DSM: Control Panel > Shared Folder > select the folder > Edit > Permissions > in the list choose "
    "“System internal user” > row angiovault > tick Read/Write > Save",
    "在 DSM 中：控制面板 > 共享文件夹 > 选中该文件夹 > 编辑 > 权限 > 在列表中选择“系统内部用户” > "
    "angiovault 一行 > 勾选“可读写” > 保存",
)
_RUN: Final = "sudo /usr/local/bin/angiovault dsm"

TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    # ---- the state of the package
    "running": ("AngioVault is running.", "AngioVault 正在运行。"),
    "starting": ("AngioVault is starting.", "AngioVault 正在启动。"),
    "stopping": ("AngioVault is stopping.", "AngioVault 正在停止。"),
    "stopped": (
        "AngioVault is not running: start the package in Package Center.",
        "AngioVault 未运行：请在套件中心启动该套件。",
    ),
    "needs_set_up": (
        "Images are stored, but cannot be queried yet: the MariaDB database is not set up. Give the password of "
        f"MariaDB's root once, on the page Service of AngioVault in DSM or to `{_RUN} create-database`.",
        "影像可以存储，但尚不能查询：MariaDB 数据库还没有设置。请输入一次 MariaDB 的 root 密码："
        f"在 DSM 中 AngioVault 的“服务”页面，或运行 `{_RUN} create-database`。",
    ),
    "configuration": (
        "The settings cannot be used: {reason}. The service starts by itself when they are corrected.",
        "设置无法使用：{reason}。更正之后服务会自动启动。",
    ),
    "port_taken": (
        "Port {port} is used by another program of this NAS: choose another port for AngioVault (11112 is the usual "
        "one), or stop the other program.",
        "端口 {port} 已被本机的其他程序占用：请为 AngioVault 选择其他端口（通常为 11112），或停止该程序。",
    ),
    "port_privileged": (
        "Port {port} is for root only: choose 11112, or allow it as root with `{command}`. It is taken up by itself "
        "within a minute; each upgrade of the package takes that back.",
        "端口 {port} 只供 root 使用：请选择 11112，或以 root 身份运行 `{command}`。"
        "之后一分钟内会自动采用；每次升级套件后都需要重新执行。",
    ),
    "failing": (
        "The service ends with: {reason}. It is started again and again.",
        "服务退出，原因：{reason}。系统会不断尝试重新启动。",
    ),
    "crashed": (
        "The service ended unexpectedly ({reason}) and is started again; the log may say why.",
        "服务意外退出（{reason}），正在重新启动；日志中可能有原因。",
    ),
    # ---- the shared folder
    "share_missing": (
        "The shared folder angiography is not there. Create it in Control Panel > Shared Folder with exactly this "
        "name, or, if it is there under another name, choose it in AngioVault. It is used as soon as it appears.",
        "共享文件夹 angiography 不存在。请在控制面板 > 共享文件夹中以此名称创建，或在 AngioVault 中选择其他文件夹。"
        "出现后会自动使用。",
    ),
    "share_locked": (
        "The shared folder {folder} is encrypted and not mounted: mount it in Control Panel > Shared Folder > "
        "Encryption > Mount. AngioVault goes on by itself then.",
        "共享文件夹 {folder} 已加密且尚未装载：请在控制面板 > 共享文件夹 > 加密 > 装载。之后 AngioVault 会自动继续。",
    ),
    "archive_missing": (
        "{storage} does not hold the archive {archive_id}. Mount the volume or put the folder back; no new archive is "
        "made in its place. If it lies elsewhere now, choose that folder in AngioVault "
        f"or by `{_RUN} use-folder PATH`.",
        "{storage} 中没有影像库 {archive_id}。请装载该存储空间或将文件夹放回原处；系统不会在此新建影像库。"
        f"如果它已移到别处，请在 AngioVault 中选择该文件夹，或运行 `{_RUN} use-folder PATH`。",
    ),
    "share_denied": (
        f"AngioVault may not write to {{folder}}: grant the internal user angiovault read/write on this shared folder, "
        f"{_PERMISSIONS[ENGLISH]}. AngioVault goes on by itself then.",
        f"AngioVault 无权写入 {{folder}}：请授予内部用户 angiovault 对该共享文件夹的读写权限。{_PERMISSIONS[CHINESE]}。"
        "之后 AngioVault 会自动继续。",
    ),
    "share_failing": (
        "The folder {folder} cannot be used: {reason}.",
        "文件夹 {folder} 无法使用：{reason}。",
    ),
    "not_created": (
        "No archive is made in {folder}: {reason}.",
        "未在 {folder} 中新建影像库：{reason}。",
    ),
    "folder_relative": (
        "{folder} is not the full path of a folder; it begins with the volume, like /volume1/angiography.",
        "{folder} 不是文件夹的完整路径；路径应以存储空间开头，例如 /volume1/angiography。",
    ),
    "folder_missing": (
        "There is no folder {folder}: create the shared folder in Control Panel > Shared Folder first.",
        "文件夹 {folder} 不存在：请先在控制面板 > 共享文件夹中创建。",
    ),
    "folder_other_archive": (
        "{folder} does not hold the archive that is in use ({archive_id}), and that one is not empty or not to be seen "
        "now. Stop the package, move the folder {storage} there, start the package, and choose it again.",
        "{folder} 中不是当前使用的影像库（{archive_id}），而当前影像库不为空或暂时无法查看。"
        "请停止套件，将文件夹 {storage} 移到该处，启动套件，然后重新选择。",
    ),
    "folder_used": (
        "The images are in {storage} from now on.",
        "从现在起影像存放在 {storage}。",
    ),
    "second_used": (
        "When its first folder is full, the archive continues in {storage}.",
        "第一个文件夹用满后，影像库将继续存放到 {storage}。",
    ),
    "second_none": (
        "The archive does not continue in a second folder any more.",
        "影像库不再使用第二个文件夹。",
    ),
    "second_refused": (
        "This cannot be the second folder: {reason}.",
        "该文件夹不能用作第二个文件夹：{reason}。",
    ),
    "second_missing": (
        "{folder} is not there, or not the second folder of the archive in {storage}. Mount the volume or put the "
        "folder back; nothing is stored and found without it. If it lies elsewhere now, choose that folder in "
        f"AngioVault or by `{_RUN} use-folder --second PATH`.",
        "{folder} 不存在，或不是 {storage} 中影像库的第二个文件夹。请装载该存储空间或将文件夹放回原处；"
        "在此之前无法存储和查询影像。"
        f"如果它已移到别处，请在 AngioVault 中选择该文件夹，或运行 `{_RUN} use-folder --second PATH`。",
    ),
    "second_found": (
        "Its second folder is {storage}.",
        "其第二个文件夹为 {storage}。",
    ),
    # ---- the database
    "mariadb_not_installed": (
        "MariaDB 10 is not installed: install it from Package Center, then set up the database in AngioVault.",
        "未安装 MariaDB 10：请从套件中心安装，然后在 AngioVault 中设置数据库。",
    ),
    "mariadb_not_running": (
        "MariaDB 10 does not answer at {socket}: start it in Package Center, then try again ({reason}).",
        "MariaDB 10 在 {socket} 没有响应：请在套件中心启动它，然后重试（{reason}）。",
    ),
    "root_refused": (
        "MariaDB refuses the password of root. It is the one that was set when MariaDB 10 was installed, not that of "
        "DSM; it can be set anew in the app MariaDB 10 ({reason}).",
        "MariaDB 拒绝了 root 密码。请输入安装 MariaDB 10 时设置的密码，而不是 DSM 的密码；"
        "可在 MariaDB 10 应用中重设（{reason}）。",
    ),
    "account_refused": (
        "MariaDB refuses the account {user} or its password: correct them ({reason}).",
        "MariaDB 拒绝了账户 {user} 或其密码：请更正（{reason}）。",
    ),
    "database_missing": (
        "There is no database {database}, or the account {user} may not use it.",
        "数据库 {database} 不存在，或账户 {user} 无权使用。",
    ),
    "rights_missing": (
        "The account {user} may not create and drop tables in the database {database}: grant it all privileges there "
        "({reason}).",
        "账户 {user} 无权在数据库 {database} 中创建和删除表：请授予该数据库的全部权限（{reason}）。",
    ),
    "database_foreign": (
        "The database {database} holds tables of another program ({tables}): give AngioVault a database of its own.",
        "数据库 {database} 中有其他程序的表（{tables}）：请为 AngioVault 使用单独的数据库。",
    ),
    "password_policy": (
        "MariaDB's password rule refuses the password that was made ({reason}). Make a database and a user of your own "
        "in MariaDB and give them to AngioVault as an existing database.",
        "MariaDB 的密码规则拒绝了自动生成的密码（{reason}）。请自行在 MariaDB 中创建数据库和用户，"
        "并作为已有数据库提供给 AngioVault。",
    ),
    "mariadb_failed": (
        "MariaDB cannot do this: {reason}.",
        "MariaDB 无法完成此操作：{reason}。",
    ),
    "bad_name": (
        "{name} is no name of a database or an account: 1 to 64 characters without control characters, slashes and "
        "backslashes.",
        "{name} 不能作为数据库或账户名称：应为 1 到 64 个字符，不含控制字符、斜杠和反斜杠。",
    ),
    "password_missing": (
        "No password was given.",
        "没有输入密码。",
    ),
    "database_ready": (
        "The database {database} is set up.",
        "数据库 {database} 已设置完成。",
    ),
    "database_kept": (
        "The database {database} and its account still work and stay in use.",
        "数据库 {database} 及其账户仍然可用，继续使用。",
    ),
    "database_later": (
        "The database is not set up; AngioVault stores images, and they can be queried after you have set it up in "
        "AngioVault.",
        "数据库尚未设置；AngioVault 会存储影像，在 AngioVault 中设置数据库之后即可查询。",
    ),
    "database_embedded": (
        "The index is kept in a file beside the images.",
        "索引保存在影像旁边的文件中。",
    ),
    "database_dropped": (
        "The database {database} was removed.",
        "数据库 {database} 已删除。",
    ),
    "database_not_dropped": (
        "The database {database} was not removed: {reason}",
        "数据库 {database} 未删除：{reason}",
    ),
    "user_dropped": (
        "The account {user} of MariaDB was removed.",
        "MariaDB 账户 {user} 已删除。",
    ),
    "user_not_dropped": (
        "The account {user} of MariaDB was not removed: {reason}",
        "MariaDB 账户 {user} 未删除：{reason}",
    ),
    "user_left": (
        "The account {user} of MariaDB is still there; it can be removed in phpMyAdmin.",
        "MariaDB 账户 {user} 仍然保留；可在 phpMyAdmin 中删除。",
    ),
    # ---- installing and removing
    "installed": (
        "AngioVault: AE title {ae_title}, port {port}. The images go into the shared folder angiography.",
        "AngioVault：AE 标题 {ae_title}，端口 {port}。影像存放在共享文件夹 angiography 中。",
    ),
    "value_refused": (
        "{value} cannot be used as {name}, so {kept} stays: {allowed}.",
        "{value} 不能用作 {name}，因此保留 {kept}：{allowed}。",
    ),
    "settings_broken": (
        "The settings that were kept cannot be used and were left as they are: {reason}",
        "保留的设置无法使用，未作改动：{reason}",
    ),
    "settings_not_written": (
        "The settings cannot be written: {reason}",
        "无法写入设置：{reason}",
    ),
    "settings_deleted": (
        "The settings were deleted. The images in the shared folder are untouched.",
        "设置已删除。共享文件夹中的影像未作改动。",
    ),
    "settings_kept": (
        "Settings, database and images are kept: a new installation finds them again.",
        "设置、数据库和影像均已保留：重新安装后会自动找到。",
    ),
    "settings_not_deleted": (
        "The settings could not be deleted: {reason}",
        "无法删除设置：{reason}",
    ),
    # ---- copying and restoring settings
    "backed_up": (
        "The settings, without passwords, are copied to {file}.",
        "设置（不含密码）已复制到 {file}。",
    ),
    "no_storage": (
        "The shared folder was not found yet, so there is nothing to work on.",
        "尚未找到共享文件夹，无法执行此操作。",
    ),
    "no_archive": (
        "No archive was found in the shared folder angiography: restore or mount it first, or choose the folder by "
        f"`{_RUN} use-folder PATH`.",
        f"共享文件夹 angiography 中没有影像库：请先恢复或装载它，或用 `{_RUN} use-folder PATH` 选择文件夹。",
    ),
    "archive_found": (
        "The archive {archive_id} is in {storage}.",
        "影像库 {archive_id} 位于 {storage}。",
    ),
    "setting_restored": (
        "Taken from the copy: {names}.",
        "已从副本恢复：{names}。",
    ),
    "setting_not_restored": (
        "Not taken from the copy: {name}: {reason}",
        "未从副本恢复：{name}：{reason}",
    ),
    "no_copy": (
        "There is no copy of the settings beside the images; what is set stays.",
        "影像旁边没有设置副本；保留现有设置。",
    ),
    "database_needed": (
        "The index was not rebuilt, since there is no database that works. Run `restore` again with the password of "
        f"MariaDB's root, or `{_RUN} use-database --embedded` to do without MariaDB.",
        "没有可用的数据库，未重建索引。请使用 MariaDB 的 root 密码再次运行 `restore`，"
        f"或运行 `{_RUN} use-database --embedded` 以不使用 MariaDB。",
    ),
    "rebuilt": (
        "The index was rebuilt from {count} files; {failed} could not be indexed.",
        "已根据 {count} 个文件重建索引；{failed} 个文件无法建立索引。",
    ),
    "rebuilding": (
        "The running service is rebuilding the index already; waiting for it.",
        "正在运行的服务已在重建索引；等待其完成。",
    ),
    "rebuilt_by_service": (
        "The service has rebuilt the index.",
        "服务已重建索引。",
    ),
    # ---- the commands
    "not_synology": (
        "This is no Synology NAS with the package AngioVault: {folder} is not there.",
        "这不是安装了 AngioVault 套件的 Synology NAS：{folder} 不存在。",
    ),
    "no_user": (
        "The internal user {user} is not there: install the package again.",
        "内部用户 {user} 不存在：请重新安装套件。",
    ),
    "not_root": (
        "This is for administrators only: type `sudo` before the command.",
        "此命令仅供管理员使用：请在命令前加上 `sudo`。",
    ),
    "applied": (
        "The running service takes this over now.",
        "正在运行的服务现已采用。",
    ),
    "not_applied": (
        "Saved, but the running service goes on with the settings it has: {reason}",
        "已保存，但正在运行的服务仍使用原来的设置：{reason}",
    ),
    # ---- notifications on DSM 6, which takes texts and not names of texts
    "notify_disk_title": ("AngioVault: the disk is nearly full", "AngioVault：磁盘空间即将用尽"),
    "notify_storage_title": ("AngioVault: the image storage cannot be used", "AngioVault：影像存储不可用"),
    "notify_database_title": ("AngioVault: the database cannot be used", "AngioVault：数据库不可用"),
    "notify_commitment_title": (
        "AngioVault: a storage commitment result is not delivered",
        "AngioVault：存储确认结果未能送达",
    ),
    "notify_disk_text": (
        "{reason} Free or add space on the volume of the shared folder angiography before nothing can be stored any "
        "more.",
        "{reason} 请在影像无法继续存储之前，释放或扩充共享文件夹 angiography 所在的存储空间。",
    ),
    "notify_storage_text": (
        "Images are refused until it is back. {reason}",
        "恢复之前将拒绝接收影像。{reason}",
    ),
    "notify_database_text": (
        "Images are still stored, but cannot be queried until the database is back. {reason}",
        "影像仍会存储，但在数据库恢复之前无法查询。{reason}",
    ),
    "notify_commitment_text": (
        "A device has waited for more than a day for the confirmation that its images are safe. {reason}",
        "有设备已等待超过一天，仍未收到影像已安全存储的确认。{reason}",
    ),
}


def language_of(name: str) -> int:
    """Return the language for DSM's name of one: Chinese for `chs` and `cht`, else English."""
    return CHINESE if name in ("chs", "cht") else ENGLISH


class Text:
    """A sentence of the table with its values."""

    def __init__(self, key: str, **values: Any) -> None:
        self.key = key
        self._values = values

    def in_language(self, language: int) -> str:
        """Return the sentence in `ENGLISH` or `CHINESE`."""
        values = {
            name: value.in_language(language) if isinstance(value, Text) else value
            for name, value in self._values.items()
        }
        return TEXTS[self.key][language].format(**values)

    def __str__(self) -> str:
        return self.in_language(ENGLISH)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Text) and (self.key, self._values) == (other.key, other._values)

    def __hash__(self) -> int:
        return hash(self.key)


class Problem(Exception):
    """Something the administrator has to do; its text says what, in both languages."""

    def __init__(self, key: str, **values: Any) -> None:
        super().__init__(key)
        self.text = Text(key, **values)

    def __str__(self) -> str:
        return str(self.text)
