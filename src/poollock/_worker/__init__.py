"""What runs in a worker process, and the messages between it and the pool.

It knows the locks that it puts in place, and nothing of the threads that feed it.
"""
