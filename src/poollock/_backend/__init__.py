"""What multiprocessing and the operating systems do differently, platform branches side by side.

It knows nothing of locks, pools or logs, and imports nothing else of poollock.
"""
