//! The DNS of an emulated Kubernetes: names of pods, as its headless Service would give them.
//!
//! A name is there from the moment it is published until it is withdrawn, with one address (A, time to live 5 s, as
//! CoreDNS gives); whatever else is asked does not exist. `/etc/resolv.conf` of this mount namespace is the one that
//! a kubelet writes. Knows no process. Start at [`Names::serve`].

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::rc::Rc;

use anyhow::{Context as _, Result};
use simple_dns::rdata::RData;
use simple_dns::{CLASS, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};
use tokio::net::UdpSocket;
use tokio::task::{JoinHandle, spawn_local};

use crate::network::{CLIENTS, Network, run};

/// What the names of all pods end with, as in the rendered configuration.
pub(super) const DOMAIN: &str = "zwerm-headless.mqtt.svc.cluster.local";

/// Seconds.
const TIME_TO_LIVE: u32 = 5;
/// Largest query.
const QUERY: usize = 1_232;

type Zone = Rc<RefCell<BTreeMap<String, Ipv4Addr>>>;

/// The zone, and the server that answers from it until this is dropped.
#[derive(Debug)]
pub(super) struct Names {
    zone: Zone,
    server: JoinHandle<()>,
}

impl Names {
    /// Serves an empty zone on the clients' side, and makes it the resolver of everything in this mount namespace.
    ///
    /// # Errors
    /// When the port is taken, or mounting is refused.
    pub(super) async fn serve(dir: &Path) -> Result<Self> {
        let address = Network::address(CLIENTS);
        let socket = UdpSocket::bind((address, 53)).await.context("taking the DNS port")?;
        let (_, parent) = DOMAIN.split_once('.').context("the domain has no parent")?;
        let text = format!(
            "nameserver {address}\nsearch {parent} svc.cluster.local cluster.local\noptions ndots:5\n"
        );
        let file = dir.join("resolv.conf");
        fs::write(&file, text)?;
        let file = file.to_str().context("the directory's name is no text")?;
        run("mount", "--bind", &[file, "/etc/resolv.conf"]).await?;
        let zone = Zone::default();
        let server = spawn_local(serve(socket, Rc::clone(&zone)));
        Ok(Self { zone, server })
    }

    /// From now on the name of a pod has this address.
    pub(super) fn publish(&self, pod: &str, address: Ipv4Addr) {
        self.zone.borrow_mut().insert(format!("{pod}.{DOMAIN}"), address);
    }

    /// From now on the name of a pod does not exist.
    pub(super) fn withdraw(&self, pod: &str) {
        self.zone.borrow_mut().remove(&format!("{pod}.{DOMAIN}"));
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Zone) {
    let mut query = [0; QUERY];
    loop {
        // A query that cannot be read, or an answer that cannot be sent, is the asker's to repeat.
        let Ok((length, from)) = socket.recv_from(&mut query).await else { continue };
        let Some(reply) = query.get(..length).and_then(|query| answer(query, &zone.borrow())) else {
            continue;
        };
        socket.send_to(&reply, from).await.ok();
    }
}

fn answer(query: &[u8], zone: &BTreeMap<String, Ipv4Addr>) -> Option<Vec<u8>> {
    let query = Packet::parse(query).ok()?;
    let question = query.questions.first()?.clone();
    let mut reply = Packet::new_reply(query.id());
    reply.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
    if query.has_flags(PacketFlag::RECURSION_DESIRED) {
        reply.set_flags(PacketFlag::RECURSION_DESIRED | PacketFlag::RECURSION_AVAILABLE);
    }
    match zone.get(&question.qname.to_string().to_ascii_lowercase()) {
        // A name that exists, but has no IPv6 address, is an empty answer.
        Some(address) if question.qtype == QTYPE::TYPE(TYPE::A) => {
            let data = RData::A((*address).into());
            let record = ResourceRecord::new(question.qname.clone(), CLASS::IN, TIME_TO_LIVE, data);
            reply.answers.push(record);
        }
        Some(_) => {}
        None => *reply.rcode_mut() = RCODE::NameError,
    }
    reply.questions.push(question);
    reply.build_bytes_vec().ok()
}

#[cfg(test)]
mod tests {
    use simple_dns::{Name, Question};

    use super::*;

    fn ask(name: &str, kind: TYPE) -> (RCODE, usize) {
        let zone = BTreeMap::from([(format!("zwerm-0.{DOMAIN}"), Ipv4Addr::new(10, 77, 4, 2))]);
        let mut query = Packet::new_query(7);
        let name = Name::new_unchecked(name);
        query.questions.push(Question::new(name, kind.into(), CLASS::IN.into(), false));
        let reply = answer(&query.build_bytes_vec().unwrap(), &zone).unwrap();
        let reply = Packet::parse(&reply).unwrap();
        assert_eq!(reply.id(), 7);
        (reply.rcode(), reply.answers.len())
    }

    #[test]
    fn a_pod_that_is_published_has_an_address_and_no_other_name_exists() {
        let name = format!("ZWERM-0.{DOMAIN}");
        assert_eq!(ask(&name, TYPE::A), (RCODE::NoError, 1));
        assert_eq!(ask(&name, TYPE::AAAA), (RCODE::NoError, 0));
        assert_eq!(ask(&format!("zwerm-1.{DOMAIN}"), TYPE::A), (RCODE::NameError, 0));
    }
}
