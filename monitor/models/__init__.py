"""Which model gives the verdicts, and how that changes while the stream runs.

`pointer` says which package is champion (and which challenger), and what was before; `canaries` checks a package by
statements whose verdicts it carries; `triton_repository` puts its graphs beside those that Triton serves; `switch`
holds the package in use and moves to another without dropping or mixing anything; `shadow` lets a challenger score a
share of the stream; `commands` is `guardline models`, `promote` and `rollback`.
"""
