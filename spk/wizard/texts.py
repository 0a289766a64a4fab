"""Every sentence of the wizards, in each language under the same key."""

from __future__ import annotations

from typing import Final

ENGLISH: Final = {
    "install title": "AngioVault",
    "install intro": "The angiography system finds this archive by its AE title and port. Leave a field empty for "
    "AngioVault's default, or for what was set before if it was installed here already.",
    "ae title": "AE title",
    "ae title hint": "ANGIOVAULT, or as it was set before",
    "ae title wrong": "1 to 16 letters, digits, blanks and signs of ASCII, no backslash, and not only blanks.",
    "port": "DICOM port",
    "port hint": "11112, or as it was set before",
    "port wrong": "A whole number from 1 to 65535.",
    "port note": "A port below 1024, such as 104, also needs an administrator's command; the AngioVault panel shows it."
    " The images go into the shared folder <b>angiography</b>, which is made if there is none.",
    "database": "AngioVault keeps the index of the images in MariaDB 10.",
    "create": "Create a database and a user for AngioVault",
    "existing": "Use a database that exists already",
    "later": "Set up the database later; until then images are stored, but cannot be searched",
    "root": "The password of MariaDB's user root is used once and not kept. Over kept settings of an earlier "
    "installation leave it empty: their database is used again.",
    "root password": "Password of root",
    "account": "The existing database, and the account that may do everything in it:",
    "database name": "Database",
    "user": "User",
    "password": "Password",
    "needed": "The existing database needs a name, a user and a password.",
    "uninstall title": "Uninstall AngioVault",
    "uninstall intro": "The images in the shared folder are not touched in any case. Settings and database stay, too, "
    "unless you say otherwise here: an AngioVault installed later finds everything again.",
    "delete settings": "Delete the settings",
    "drop database": "Delete the database with the index (it can be made again from the images)",
    "drop root": "Only to delete the database's user as well; may be left empty:",
}

CHINESE: Final = {
    "install title": "AngioVault",
    "install intro": "血管造影设备通过 AE 标题和端口找到本归档系统。留空即采用 AngioVault 的默认值；"
    "如果本机曾安装过，则沿用以前的设置。",
    "ae title": "AE 标题",
    "ae title hint": "ANGIOVAULT，或以前的设置",
    "ae title wrong": "1 到 16 个 ASCII 字符（字母、数字、空格和符号），不得含反斜杠，也不得全为空格。",
    "port": "DICOM 端口",
    "port hint": "11112，或以前的设置",
    "port wrong": "1 到 65535 之间的整数。",
    "port note": "小于 1024 的端口（如 104）还须由管理员执行一条命令，该命令见 AngioVault 面板。"
    "影像存放在共享文件夹 <b>angiography</b> 中，如不存在则自动创建。",
    "database": "AngioVault 将影像索引保存在 MariaDB 10 中。",
    "create": "为 AngioVault 创建数据库和用户",
    "existing": "使用已有的数据库",
    "later": "以后再设置数据库；在此之前可以存储影像，但不能查询",
    "root": "MariaDB 的 root 用户密码只使用一次，不会保存。如果保留了以前安装的设置，请留空：将继续使用原来的数据库。",
    "root password": "root 密码",
    "account": "已有的数据库，以及对其拥有全部权限的账户：",
    "database name": "数据库",
    "user": "用户名",
    "password": "密码",
    "needed": "使用已有的数据库时，须填写数据库名、用户名和密码。",
    "uninstall title": "卸载 AngioVault",
    "uninstall intro": "无论如何选择，共享文件夹中的影像都不会被改动。除非在此另行选择，设置和数据库也会保留："
    "以后重新安装 AngioVault 即可全部找回。",
    "delete settings": "删除设置",
    "drop database": "删除保存索引的数据库（可由影像重新生成）",
    "drop root": "仅在需要一并删除数据库用户时填写，可以留空：",
}

LANGUAGES: Final = {"": ENGLISH, "_chs": CHINESE, "_cht": CHINESE}
"""The ending of a wizard's file name for each of DSM's languages; without an ending, for all others."""
