"""`make demo`: the whole story on one machine, without a Claude account.

`cast` says who plays, `stage` what is started and where, `caller` is one of the people,
`story` what happens to them, and `narrator` tells it.
"""
