"""What a client and the manager's server say to each other, after multiprocessing's own handshake.

A connection is for one lock.  Each message is a line:

    acquire SECONDS   answered by 1 when the lock is granted, by 0 if it was not in that time
    release           not answered; what was granted through this connection is given back
    cancel            not answered; the same, and who waits through this connection does not any more
    release_any       answered by 1 if that was allowed; what the oldest holder has is given back
    state             answered by how many can have the lock now, whether it was abandoned, the holders' pids
    mark_consistent   answered by 1
    recover PID       answered by 1 if that process, which is dead, had the lock when it died

A client that sends nothing gets nothing, with one exception: a ``!`` tells that what was granted
through this connection has been given back by a ``release_any``.
"""

ACQUIRE = b"acquire "
RELEASE = b"release"
CANCEL = b"cancel"

YES = b"1\n"
NO = b"0\n"
REVOKED = b"!"

MOST = 1 << 14  # bytes read at once; a line is far shorter
