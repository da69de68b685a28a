"""`guardline alerts`: flags to where people look, grouped, within a budget, at least once.

```
safety.flags -> worker -> lane (route x sink): repeats, windows, budget, digest -> delivery: retries -> sink
                  |                                                                   \\-> safety.alerts.deadletter
                  \\- offsets are committed below the lowest flag that is still on its way
```

A *lane* is one sink of one route; whatever happens in one lane happens in no other. What fails:

- a sink answers 429, 5xx or not at all: tried again, waiting as long as it asked; after the last try each flag of the
  alert is a dead letter, and the sink counts as down: until a try succeeds, one every 30 s, what is meant for it goes
  to the dead letters at once. So an outage holds the other sinks up for one schedule of retries at most;
- a sink refuses an alert (any other answer): dead letter at once;
- a sink is slow: its queue fills, then intake waits (fails closed: nothing is dropped);
- a flag cannot be read: dead letter, the stream goes on;
- the store is away: it goes on (fails open: after a crash alerts may come twice, none is lost);
- the broker is away: it waits; nothing is committed.

`guardline replay --dead-letters` with GUARDLINE_TOPIC_DEADLETTER=safety.alerts.deadletter sends the flags back.
"""
