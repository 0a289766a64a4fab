"""Trying out a MariaDB database before it is made the index's."""

from __future__ import annotations

import contextlib
from typing import Final

import pymysql
from pymysql.constants import CR, ER

from angiovault.dsm import mariadb
from angiovault.dsm.mariadb import Account
from angiovault.dsm.paths import Nas
from angiovault.dsm.texts import CHINESE, ENGLISH, Problem, Text
from angiovault.indexurl import IndexURL
from angiovault.panel.web import Message, said

_SECONDS: Final = 5
_KEYS: Final = {
    ER.ACCESS_DENIED_ERROR: "wrong.database-account",
    ER.DBACCESS_DENIED_ERROR: "wrong.database-rights",
    ER.BAD_DB_ERROR: "wrong.database-unknown",
    CR.CR_CONNECTION_ERROR: "wrong.database-away",
    CR.CR_CONN_HOST_ERROR: "wrong.database-away",
}


def bilingual(text: Text) -> Message:
    """Return a sentence of the package's own tables."""
    return {"en": text.in_language(ENGLISH), "zh": text.in_language(CHINESE)}


def database_problem(nas: Nas | None, url: IndexURL) -> Message | None:
    """Log in to a database, and return why that does not work, None when it does."""
    account = Account.of(url)
    if nas is not None and account is not None:
        try:
            mariadb.check(nas, account)
        except Problem as problem:
            return bilingual(problem.text)
        return None
    try:
        connection = pymysql.connect(
            user=url.user,
            password=url.password.encode(),  # PyMySQL would take text for Latin-1
            database=url.database,
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
            write_timeout=_SECONDS,
            **url.server(),
        )
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except (pymysql.MySQLError, OSError, UnicodeError) as error:
        number = error.args[0] if error.args else 0
        where = url.unix_socket or f"{url.host}:{url.port}"
        key = _KEYS.get(number, "wrong.database-other")
        return said(key, user=url.user, database=url.database, where=where, code=str(number))
    return None
