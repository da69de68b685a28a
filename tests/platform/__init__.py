"""The whole platform on one machine: `make platform`, which starts it, uses it as a team would, and ends it.

`requirements` says what a machine lacks, `credentials` makes every user, `servers` and `components` start what runs,
`checks` is what a team does and sees, `report` shows it. Everything is the real thing as a native process on loopback,
reached with TLS and a password by a user who may do what `guardline acls` prints and nothing else.
"""
