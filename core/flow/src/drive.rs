//! Drives a session without sockets: every cut, virtual time. (Being written.)
