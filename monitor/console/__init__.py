"""The review console: flags to people who decide on them, decisions to `safety.feedback`.

    safety.flags, safety.review, safety.feedback -> `intake` -> `store` (`memory`, `redis`) -> `desk` -> `register`
    browser -> `gate` (who are you, did you mean it) -> `pages` -> `register`, `messages`, `deciding` -> safety.feedback

What is kept is where a flag and its message lie in Kafka, its scores and its decisions; never a text. `messages` reads
texts from the broker while a reviewer looks at them, and `audit` is told of each. `register` answers every question of
the pages from memory, `trends` and `charts` draw them, `live` tells open pages what has changed.
"""
