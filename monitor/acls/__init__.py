"""What each component may do on Kafka and in Redis, and nothing more, from the settings.

`grants` says it, `rendering` writes it in the forms that Kafka's tools, Strimzi and Redis read, `command` is
`guardline acls`. The tests run components under exactly these grants, and without each of them.
"""
