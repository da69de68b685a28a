"""What was decided, by which model and by whom, in a log that cannot be changed without being found out.

`trail` is how other parts say what somebody did (a text revealed, a model promoted); they publish it, because the log
has one writer. That is `recorder`, run by `guardline audit record`: a consumer group on flags, reviews, decisions and
actions. `entries` makes an entry of a record, `chain` links entries by their hashes and checks the links, `log` is
where they lie: `file_log` in a folder, `topic_log` in a topic of one partition. `verification` checks a log from end
to end, `reproduction` computes a flag's verdict again.
"""
