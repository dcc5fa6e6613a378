//! A machine beside a test's own network: another network namespace at the end of a cable. What it listens at is no address of
//! this machine, so that a server may dial it.
//!
//! For tests that run in a network of their own, where they may make links (`unshare --net`).

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// This machine's address on the cable.
const NEAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// The neighbour, as long as this is kept.
pub struct Neighbour(Child);

impl Neighbour {
    /// A neighbour at these addresses, by a link called `near`. One in a network.
    ///
    /// # Errors
    /// When `unshare`, `nsenter` or `ip` fail, which is so where the test may not make links.
    pub fn start(addresses: &[Ipv4Addr]) -> anyhow::Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up && echo ready && exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let neighbour = Self(child);
        let mut said = String::new();
        BufReader::new(output).read_line(&mut said)?;
        ensure!(said == "ready\n", "there is no namespace");
        let id = neighbour.0.id();
        sh(&format!(
            "ip link add near type veth peer name far netns {id} && ip address add {NEAR}/32 dev near \
             && ip link set near up \
             && nsenter --net=/proc/{id}/ns/net sh -c 'ip link set far up && ip route add {NEAR}/32 dev far'"
        ))?;
        for address in addresses {
            sh(&format!(
                "nsenter --net=/proc/{id}/ns/net ip address add {address}/32 dev far \
                 && ip route add {address}/32 dev near"
            ))?;
        }
        Ok(neighbour)
    }

    /// A listener of the neighbour's: a thread goes there and opens it.
    ///
    /// # Errors
    /// When the thread may not go there, or the address is in use.
    pub fn listen(&self, at: SocketAddr) -> anyhow::Result<TcpListener> {
        let there = File::open(format!("/proc/{}/ns/net", self.0.id()))?;
        let listen = move || {
            move_into_link_name_space(there.as_fd(), Some(LinkNameSpaceType::Network))?;
            let listener = TcpListener::bind(at)?;
            listener.set_nonblocking(true)?;
            anyhow::Ok(listener)
        };
        std::thread::spawn(listen).join().map_err(|_| anyhow::anyhow!("the thread panicked"))?
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn sh(command: &str) -> anyhow::Result<()> {
    ensure!(Command::new("sh").args(["-c", command]).status()?.success(), "`{command}` failed");
    Ok(())
}
