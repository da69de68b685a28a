"""`guardline canary`: notices when flags stop coming although nothing reports an error.

A monitor that answers nothing looks like a stream without unsafe statements. So messages whose verdicts are known go
through the whole of it, and four figures are watched from outside, by what the broker says and not the worker:

```
package's canaries -> messages -> llm.outputs -> [monitor] -> safety.flags, safety.verdicts -> ledger: back in time?
committed and end offsets of the group -> backlog: how many records wait, and for how long?
flagged messages per messages done with -> flag_rate: fewer than there were? (an exact test)
scores -> drift: distributed as they were? (population stability index)
                                        \\-> alarms -> /metrics, log, Alertmanager
```

Canaries are messages of the tenant `guardline-canary`. Their flags are for nobody: `guardline alerts` sends them to no
route that does not name that tenant, and the monitor scores them afresh, because a remembered score would say nothing
of the model. The mark is no secret. Who may write to `llm.outputs` could hide behind it, so flags that carry it and
that this process did not send are counted, and alarmed of. Run one process for each consumer group.

What fails: the broker (fails closed: canaries that cannot be sent are overdue, and say so); Alertmanager (fails open:
log and metrics go on, the alarm is sent again every minute); the store (fails open: after a restart the references of
rate and drift are gathered anew). Canaries that are on their way when the process ends are forgotten.
"""
