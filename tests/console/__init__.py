"""Tests of `guardline console`: its parts alone, its pages over ASGI, and the whole in Chromium.

How a test logs in. `write_users(path)` (in `stage`) writes the file of users that `GUARDLINE_CONSOLE_TOKENS_FILE`
names: anna, ben and cara are reviewers, vera is a viewer, and the token of each is `TOKENS[name]`. A browser opens
`/login`, types the token into `#token` and presses Enter (`browser.Browser.login`). Or start the console with
`--one-time-link NAME`: its standard output says `console URL` on one line and `NAME URL` on the next; opening that URL
once is the login. `stage.Console` is the console as a process, `browser.browsing` a Chromium.

What a test may hold on to: `#queue tr[data-flag]` and `#empty`; `#flag[data-flag]`, `#reveal`, `#statement`,
`#missing`; `#decision` with `#choose-accept`, `#choose-reject`, `#choose-wrong_recommendation`, `#choose-unsure`,
`#right`, `#note`, `#save`; `#decided[data-decision]`, which appears only after Kafka has the decision, and
`#decision-problem`, which says that it has not; `#state[data-status]`, `#blind`; `#what-if-result[data-would]`.
"""
