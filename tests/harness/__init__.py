"""Real counterparts for the tests: each module starts one kind of server or runs one family of programs."""
