"""What a user holds and calls: LockedPool, its methods, and which locks a function asks for.

It has no threads of its own, and does not know where its locks live.
"""
