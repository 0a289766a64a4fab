#!/bin/sh
# authenticate.cgi: print the user of a session, for which cookie and SynoToken must fit; else nothing.
case "${HTTP_COOKIE:-}" in
    *id=session-of-admin*) user="admin" ;;
    *id=session-of-visitor*) user="visitor" ;;
    *) exit 0 ;;
esac
case "${HTTP_X_SYNO_TOKEN:-}&${QUERY_STRING:-}&" in
    "token-of-$user&"* | *"SynoToken=token-of-$user&"*) echo "$user" ;;
esac
