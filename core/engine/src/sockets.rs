//! Making sockets and setting their options. No runtime in here: what comes out is a plain descriptor.
//!
//! Options set on a listening socket are inherited by what it accepts (tcp(7)), so a new connection costs no system call for them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

/// How many handshakes may wait to be accepted; the kernel cuts it to net.core.somaxconn.
const BACKLOG: i32 = 16_384;
/// A peer that vanished without a word is found after idle + count × interval = 2 minutes.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;
/// Sent bytes that stay unacknowledged this long break the connection. Not for a slow reader: a closed window is acknowledged.
const USER_TIMEOUT_MS: u32 = 120_000;

const FLAGS: SocketFlags = SocketFlags::NONBLOCK.union(SocketFlags::CLOEXEC);

/// Binds `count` sockets that share `address`. Port 0 becomes the same free port for all of them.
pub(crate) fn listen(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    // Sharing a port by SO_REUSEPORT would also let two gateways of one user share it in silence: a bind without it tells.
    if address.port() != 0 {
        let probe = rustix::net::socket_with(family(address), SocketType::STREAM, FLAGS, None)?;
        sockopt::set_socket_reuseaddr(&probe, true)?;
        bind(&probe, address)?;
    }
    let mut bound = address;
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let fd = rustix::net::socket_with(family(bound), SocketType::STREAM, FLAGS, None)?;
        sockopt::set_socket_reuseaddr(&fd, true)?;
        sockopt::set_socket_reuseport(&fd, true)?;
        tune(&fd, bound)?;
        bind(&fd, bound)?;
        rustix::net::listen(&fd, BACKLOG)?;
        let listener = TcpListener::from(fd);
        bound = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok((bound, listeners))
}

fn bind(fd: &OwnedFd, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` may then be listed side by side, whatever net.ipv6.bindv6only says.
        sockopt::set_ipv6_v6only(fd, true)?;
    }
    Ok(rustix::net::bind(fd, &address)?)
}

fn tune(fd: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(fd, true)?;
    // A peer on this machine cannot vanish without a word: the kernel says it for it.
    if address.ip().is_loopback() {
        return Ok(());
    }
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, KEEPALIVE_COUNT)?;
    sockopt::set_tcp_user_timeout(fd, USER_TIMEOUT_MS)
}

fn family(address: SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

/// Begins to connect. The socket becomes writable when it is done; [`failure`] then tells whether it worked.
pub(crate) fn connect_tcp(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let fd = rustix::net::socket_with(family(address), SocketType::STREAM, FLAGS, None)?;
    tune(&fd, address)?;
    match rustix::net::connect(&fd, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(fd),
        Err(error) => Err(error),
    }
}

/// Connects at once or not at all; `EAGAIN` is a full backlog and worth another try (connect(2)).
pub(crate) fn connect_unix(path: &Path) -> Result<OwnedFd, Errno> {
    let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None)?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// Why a connect failed, if it did.
pub(crate) fn failure(fd: impl std::os::fd::AsFd) -> io::Result<()> {
    Ok(sockopt::socket_error(fd)??)
}
