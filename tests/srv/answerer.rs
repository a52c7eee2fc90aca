//! A DNS server on the loopback that answers for SRV records as it is told, over UDP and TCP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::AbortHandle;

/// Of one record: priority, weight, port, target.
pub(crate) type Srv = (u16, u16, u16, &'static str);

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Well,
    /// Not at all.
    Silent,
    /// SERVFAIL.
    Failing,
    /// Over UDP with nothing but that there is more.
    Truncated,
    /// With what is no message of DNS.
    Garbage,
}

pub(crate) struct Answerer {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    tasks: Vec<AbortHandle>,
}

pub(crate) struct State {
    pub(crate) mood: Mood,
    pub(crate) ttl: u32,
    records: BTreeMap<String, Vec<Srv>>,
    /// The names that were asked for, over TCP with `tcp ` before them.
    pub(crate) asked: Vec<String>,
}

impl Answerer {
    pub(crate) async fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            // The port may be another's over TCP.
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().unwrap();
        let state = State { mood: Mood::Well, ttl: 3600, records: BTreeMap::new(), asked: Vec::new() };
        let state = Arc::new(Mutex::new(state));
        let (over_udp, over_tcp) = (state.clone(), state.clone());
        let udp = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
                let answer = over_udp.lock().unwrap().answer(&buffer[..length], false);
                if let Some(answer) = answer {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        let tcp = tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let state = over_tcp.clone();
                tokio::spawn(async move {
                    while let Ok(length) = stream.read_u16().await {
                        let mut question = vec![0; length.into()];
                        stream.read_exact(&mut question).await?;
                        let answer = state.lock().unwrap().answer(&question, true);
                        let Some(answer) = answer else { continue };
                        stream.write_u16(answer.len() as u16).await?;
                        stream.write_all(&answer).await?;
                    }
                    Ok::<_, std::io::Error>(())
                });
            }
        });
        Self { address, state, tasks: vec![udp.abort_handle(), tcp.abort_handle()] }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// From now on these are the records of that name; without any there is no such name.
    pub(crate) fn set(&self, name: &str, records: impl IntoIterator<Item = Srv>) {
        self.state().records.insert(name.into(), records.into_iter().collect());
    }

    pub(crate) fn mood(&self, mood: Mood) {
        self.state().mood = mood;
    }

    pub(crate) fn count(&self) -> usize {
        self.state().asked.len()
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

impl State {
    fn answer(&mut self, question: &[u8], is_tcp: bool) -> Option<Vec<u8>> {
        let (name, end) = name(question)?;
        self.asked.push(if is_tcp { format!("tcp {name}") } else { name.clone() });
        if self.mood == Mood::Silent {
            return None;
        }
        if self.mood == Mood::Garbage {
            return Some([&question[..2], &[0xff; 40]].concat());
        }
        let records = self.records.get(&name).cloned().unwrap_or_default();
        let is_truncated = self.mood == Mood::Truncated && !is_tcp;
        let code = match self.mood {
            Mood::Failing => 2,
            _ if records.is_empty() => 3,
            _ => 0,
        };
        let count = if is_truncated || code != 0 { 0 } else { records.len() as u16 };
        let mut answer = question[..2].to_vec();
        // An answer with recursion, and how it came out.
        answer.extend([0x81 | (u8::from(is_truncated) << 1), 0x80 | code, 0, 1]);
        answer.extend(count.to_be_bytes());
        answer.extend([0; 4]);
        answer.extend(&question[12..end + 4]);
        for (priority, weight, port, target) in records.iter().take(count.into()) {
            let mut data = [priority.to_be_bytes(), weight.to_be_bytes(), port.to_be_bytes()].concat();
            for label in target.split('.').filter(|label| !label.is_empty()) {
                data.push(label.len() as u8);
                data.extend(label.as_bytes());
            }
            data.push(0);
            // The name of the question, an SRV record of the internet.
            answer.extend([0xc0, 12, 0, 33, 0, 1]);
            answer.extend(self.ttl.to_be_bytes());
            answer.extend((data.len() as u16).to_be_bytes());
            answer.extend(data);
        }
        Some(answer)
    }
}

/// The name that is asked for, and where what follows it begins.
fn name(question: &[u8]) -> Option<(String, usize)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(question.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    (question.len() >= at + 4).then(|| (labels.join("."), at))
}
