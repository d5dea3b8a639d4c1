"""One text file, or the console, for any number of processes, a whole record at a time.

It knows neither locks nor pools: the lock of a file is the operating system's.
"""
