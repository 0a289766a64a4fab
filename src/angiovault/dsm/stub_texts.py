"""Every text of the status page and of the refusals, one table a language."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

Texts = Mapping[str, str]

ENGLISH: Final[Texts] = {
    "html-lang": "en",
    "title": "AngioVault",
    "other-language": "中文",
    # The states. What to do about most of them is in the supervisor's message.
    "well": "Running and well",
    "problems": "Running, with problems",
    "starting": "Starting",
    "stopping": "Stopping",
    "stopped": "Stopped",
    "failing": "Cannot run",
    "needs-set-up": "Needs set-up",
    "share-missing": "The image folder is not there",
    "share-denied": "The image folder may not be used",
    "configuration": "The settings cannot be used",
    "port": "The port cannot be used",
    "unknown": "The state is not known",
    "well-do": "The archive takes images and answers queries.",
    "problems-do": "The archive works as far as it can. What is wrong stands below; it recovers by itself when "
    "the cause is gone.",
    "stopped-do": "Start AngioVault in Package Center. If it stops again, the log below says why.",
    "unknown-do": "The file with the state cannot be read. The log below may say why.",
    "panel-silent": "The settings panel does not answer: this page is shown in its place.",
    "retry": "Try again",
    # What the modality needs.
    "connection": "Type this into the modality",
    "ae-title": "AE title",
    "addresses": "IP address",
    "no-address": "no network address found",
    "port-number": "Port",
    "tls-port": "Port with TLS",
    "since": "Running since",
    "restarts": "Restarts",
    "found-problems": "Problems",
    "storage": "Storage",
    "disk": "Disk space",
    "database": "Database",
    "commitment": "Storage commitment",
    "log": "Last log lines",
    "log-empty": "The log is empty.",
    "connection-lost": "The NAS does not answer; what you see may be out of date.",
    # Refusals.
    "refused": "No access",
    "not-logged-in": "You are not logged in to DSM.",
    "login-failed": "DSM's login check did not recognise you (exit code {0}).",
    "login-unavailable": "DSM's login check cannot be run: {0}.",
    "login-slow": "DSM's login check did not answer in time.",
    "login-odd": "DSM's login check gave an answer that cannot be understood.",
    "not-administrator": "The user {0} is not in the group administrators.",
    "no-token": "The request changes something and has no SynoToken.",
    "cross-site": "The request comes from another web site.",
    "method": "Only GET, HEAD and POST are answered.",
    "malformed": "The request is malformed.",
    "too-large": "The request is longer than 1 MiB.",
    "refused-do": "Log in to DSM as an administrator, then open AngioVault again.",
}

CHINESE: Final[Texts] = {
    "html-lang": "zh-Hans",
    "title": "AngioVault",
    "other-language": "English",
    "well": "运行正常",
    "problems": "正在运行，但存在问题",
    "starting": "正在启动",
    "stopping": "正在停止",
    "stopped": "已停止",
    "failing": "无法运行",
    "needs-set-up": "需要完成设置",
    "share-missing": "找不到影像文件夹",
    "share-denied": "没有影像文件夹的权限",
    "configuration": "设置无法使用",
    "port": "端口无法使用",
    "unknown": "状态未知",
    "well-do": "归档系统正在接收影像并响应查询。",
    "problems-do": "归档系统仍在尽可能地工作。问题列在下方；原因消除后会自动恢复。",
    "stopped-do": "请在套件中心启动 AngioVault。如果再次停止，下方日志会说明原因。",
    "unknown-do": "无法读取状态文件。下方日志可能会说明原因。",
    "panel-silent": "设置面板没有响应，因此显示此页面。",
    "retry": "重试",
    "connection": "请在影像设备中输入",
    "ae-title": "AE 标题（AE Title）",
    "addresses": "IP 地址",
    "no-address": "找不到网络地址",
    "port-number": "端口",
    "tls-port": "TLS 端口",
    "since": "启动时间",
    "restarts": "重新启动次数",
    "found-problems": "问题",
    "storage": "存储",
    "disk": "磁盘空间",
    "database": "数据库",
    "commitment": "存储确认",
    "log": "最近的日志",
    "log-empty": "日志为空。",
    "connection-lost": "NAS 没有响应，所显示的内容可能已过时。",
    "refused": "无法访问",
    "not-logged-in": "您尚未登录 DSM。",
    "login-failed": "DSM 的登录检查未能识别您的身份（退出代码 {0}）。",
    "login-unavailable": "无法运行 DSM 的登录检查：{0}。",
    "login-slow": "DSM 的登录检查没有及时响应。",
    "login-odd": "无法理解 DSM 登录检查的回答。",
    "not-administrator": "用户 {0} 不在 administrators 群组中。",
    "no-token": "该请求会更改内容，但没有附带 SynoToken。",
    "cross-site": "该请求来自其他网站。",
    "method": "只接受 GET、HEAD 和 POST。",
    "malformed": "请求格式错误。",
    "too-large": "请求超过 1 MiB。",
    "refused-do": "请以管理员身份登录 DSM，然后重新打开 AngioVault。",
}

LANGUAGES: Final[Mapping[str, Texts]] = {"enu": ENGLISH, "chs": CHINESE}
"""The tables by DSM's names for the languages."""


def language(chosen: str, nas: str, accepted: str) -> str:
    """Return "enu" or "chs".

    Parameters
    ----------
    chosen
        The page's own `lang`, empty when nobody chose.
    nas
        The language of the NAS (`language` in /etc/synoinfo.conf); empty or "def" leaves it to the browser, as in DSM.
    accepted
        The browser's Accept-Language.
    """
    for name in (chosen, nas):
        if name and name != "def":
            return "chs" if name in ("chs", "cht") else "enu"
    return "chs" if accepted.strip().lower().startswith("zh") else "enu"
