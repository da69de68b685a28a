"""What crosses Kafka, for machines: JSON Schemas of all records and one AsyncAPI document of the topics.

Both are made of the pydantic models that validate and write the records (`guardline schemas`), kept in `docs/schemas`,
and compared by a test, so that they never say something else than the code does. `catalogue` says which record is in
which topic, `jsonschema` and `asyncapi` write it down.
"""
