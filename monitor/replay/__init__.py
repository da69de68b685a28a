"""`guardline replay`: what the stream once held, again.

Two jobs over one way of reading (`places`: from where to where; `reading`: exactly that, and no more):

- `dead_letters` sends letters back to the topic that they came from, byte for byte;
- `history` judges past inputs with another model package, publishes nothing, and says which verdicts would change.

`command` is the command line over both. Both read with a consumer that joins no group, so a running worker keeps its
partitions, and both end at the offsets that were the ends when they began.
"""
