"""The pool's threads: they hand out tasks, start workers, and learn of results and deaths.

It stands between the methods that a user calls, which it does not know, and the workers.
"""
