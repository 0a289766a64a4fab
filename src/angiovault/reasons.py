"""Why a device is refused: kept as a code with parameters, said in English and Simplified Chinese."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Self

ENGLISH: Final = 0
CHINESE: Final = 1

_OPERATIONS: Final[Mapping[str, str]] = {
    "echo": "回显（Echo）",
    "store": "存储影像",
    "find": "查询",
    "get": "取回（C-GET）",
    "move": "取回（C-MOVE）",
    "commit": "请求存储确认",
}

TEXTS: Final[Mapping[str, tuple[str, str]]] = {
    "tls": ("TLS: {error}", "TLS 连接失败：{error}"),
    # ---- associations that are rejected
    "protocol-version": (
        "protocol version not supported: protocol version {version} is not version 1",
        "不支持该协议版本：{version} 不是版本 1",
    ),
    "application-context": (
        "application context name not supported: application context {uid!r} is not DICOM's",
        "不支持该应用上下文：“{uid}”不是 DICOM 的应用上下文",
    ),
    "called-ae-title": (
        "called AE title not recognised: calls {called!r}, this archive is {own!r}",
        "被呼叫的 AE 标题不正确：设备呼叫“{called}”，本归档系统为“{own}”",
    ),
    "not-a-device": (
        "calling AE title not recognised: not a configured device",
        "呼叫方的 AE 标题未知：不是已添加的设备",
    ),
    "device-may-nothing": (
        "calling AE title not recognised: device {device!r} may do nothing",
        "呼叫方未获准：设备“{device}”不可进行任何操作",
    ),
    "max-pdu": (
        "no reason given: maximum PDU length {length} is less than {least}",
        "最大 PDU 长度 {length} 小于 {least}",
    ),
    "too-many": (
        "local limit exceeded: {most} associations are open already",
        "超出本机限制：已有 {most} 个关联打开",
    ),
    # ---- presentation contexts that are refused
    "sop-class": ("{sop_class}: SOP class not supported", "{sop_class}：不支持该 SOP 类"),
    "device-may-not": (
        "{sop_class}: the device {device!r} may not {operation}",
        "{sop_class}：设备“{device}”未获准进行操作：{operation}",
    ),
    "unknown-may-not": (
        "{sop_class}: a caller that is no configured device may not {operation}",
        "{sop_class}：未添加的设备未获准进行操作：{operation}",
    ),
    "transfer-syntax": (
        "{sop_class}: no transfer syntax of those offered ({offered})",
        "{sop_class}：不支持所提供的任何传输语法（{offered}）",
    ),
}
"""Code -> sentence in English and Chinese."""


@dataclass(frozen=True)
class Reason:
    """A reason: a code of `TEXTS`, and the values for its placeholders."""

    code: str
    values: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, code: str, **values: object) -> Self:
        """Return a reason with these values."""
        return cls(code, {name: str(value) for name, value in values.items()})

    def in_language(self, language: int) -> str:
        """Return the sentence in `ENGLISH` or `CHINESE`."""
        values = dict(self.values)
        if language == CHINESE and "operation" in values:
            values["operation"] = _OPERATIONS.get(values["operation"], values["operation"])
        return TEXTS[self.code][language].format(**values)

    def __str__(self) -> str:
        return self.in_language(ENGLISH)

    def encoded(self) -> str:
        """Return the values as they are kept."""
        return json.dumps(dict(self.values), sort_keys=True)


def sentences(code: str, kept: str) -> tuple[str, str]:
    """Return what was kept, in English and Chinese.

    Parameters
    ----------
    code : str
        The code; '' for a sentence of an earlier version, which knew English only.
    kept : str
        The values as `Reason.encoded` gives them, or that sentence.
    """
    if code not in TEXTS:
        return kept, kept
    try:
        reason = Reason(code, json.loads(kept))
        return reason.in_language(ENGLISH), reason.in_language(CHINESE)
    except (ValueError, KeyError, TypeError, AttributeError):  # not written by us
        return code, code
