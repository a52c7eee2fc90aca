//! A random exchange, made of its seed alone: client and server know all of it, and each can hold the other to it.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use fastrand::Rng;
use greeter_proto::testing::Payload;
use tonic::codegen::Bytes;
use tonic::metadata::{MetadataKey, MetadataMap, MetadataValue};
use tonic::{Code, Status};

pub(crate) const LARGEST: usize = 8 << 20;

/// What messages are cut out of, so that a byte that is lost or moved shows.
static BYTES: LazyLock<Bytes> = LazyLock::new(|| {
    let mut bytes = vec![0; 2 * LARGEST];
    Rng::with_seed(1).fill(&mut bytes);
    bytes.into()
});

#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) kind: CallKind,
    /// Sizes of messages.
    pub(crate) requests: Vec<usize>,
    pub(crate) answers: Vec<usize>,
    /// In what order the server reads and answers; what it has not read when it is through, it leaves.
    pub(crate) steps: Vec<Step>,
    /// Of these steps, the ones before the head of the answer.
    pub(crate) before_head: usize,
    pub(crate) code: Code,
    pub(crate) message: String,
    /// With its head, and with its end where tonic lets a server say so.
    pub(crate) metadata: BTreeMap<String, Vec<u8>>,
    pub(crate) cancel: Option<Cancel>,
    pub(crate) deadline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum CallKind {
    Unary,
    ClientStreaming,
    ServerStreaming,
    BothWays,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Step {
    Read,
    Answer,
}

/// The client goes away when it has taken so many parts of the answer, of which the head is the first, and has asked for the
/// next so many times.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cancel {
    pub(crate) parts: usize,
    pub(crate) polls: usize,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Rng::with_seed(seed);
        let kind = *random.choice(&KINDS).expect("there are four");
        // Few go to the very largest: as many bytes as five thousand exchanges can carry in half a minute.
        let largest = if random.u8(0..4) == 0 { LARGEST } else { LARGEST >> 6 };
        let largest = below(&mut random, largest);
        let mut sizes = |one: bool| -> Vec<usize> {
            let count = if one { 1 } else { random.usize(0..=4) };
            (0..count).map(|_| below(&mut random, largest)).collect()
        };
        let requests = sizes(matches!(kind, CallKind::Unary | CallKind::ServerStreaming));
        let answers = sizes(matches!(kind, CallKind::Unary | CallKind::ClientStreaming));
        let failed = random.u8(0..4) == 0;
        let code = if failed { Code::from_i32(random.i32(1..=16)) } else { Code::Ok };
        let steps = steps(&mut random, kind, requests.len(), answers.len());
        let before_head = match kind {
            CallKind::BothWays => steps.iter().take_while(|step| **step == Step::Read).count(),
            _ => 0,
        };
        let parts = 1 + answers.len();
        Self {
            seed,
            kind,
            requests,
            answers,
            before_head: random.usize(0..=before_head),
            steps,
            code,
            message: if failed { text(&mut random) } else { String::new() },
            metadata: metadata(&mut random),
            cancel: (random.u8(0..6) == 0)
                .then(|| Cancel { parts: random.usize(0..parts), polls: random.usize(1..=6) }),
            deadline: random.bool(),
        }
    }

    pub(crate) fn request(&self, index: usize) -> Option<Payload> {
        self.payload(self.requests[index], 2 * index)
    }

    pub(crate) fn answer(&self, index: usize) -> Option<Payload> {
        self.payload(self.answers[index], 2 * index + 1)
    }

    #[expect(clippy::unnecessary_wraps)] // as messages have it
    fn payload(&self, size: usize, salt: usize) -> Option<Payload> {
        let start = Rng::with_seed(self.seed ^ salt as u64).usize(0..=BYTES.len() - size);
        Some(Payload { body: BYTES.slice(start..start + size), ..Payload::default() })
    }

    /// Requests that the server reads.
    pub(crate) fn read(&self) -> usize {
        self.steps.iter().filter(|step| **step == Step::Read).count()
    }

    pub(crate) fn status(&self) -> Status {
        Status::with_metadata(self.code, self.message.clone(), self.metadata_map())
    }

    pub(crate) fn metadata_map(&self) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in &self.metadata {
            if key.ends_with("-bin") {
                map.insert_bin(MetadataKey::from_bytes(key.as_bytes()).unwrap(), MetadataValue::from_bytes(value));
            } else {
                map.insert(
                    MetadataKey::from_bytes(key.as_bytes()).unwrap(),
                    MetadataValue::try_from(&value[..]).unwrap(),
                );
            }
        }
        map
    }
}

const KINDS: [CallKind; 4] =
    [CallKind::Unary, CallKind::ClientStreaming, CallKind::ServerStreaming, CallKind::BothWays];

/// Log-uniform, from nothing to `largest`.
fn below(random: &mut Rng, largest: usize) -> usize {
    let size = (random.f64() * ((largest + 1) as f64).ln()).exp() - 1.0;
    (size.round() as usize).min(largest)
}

fn steps(random: &mut Rng, kind: CallKind, requests: usize, answers: usize) -> Vec<Step> {
    // A server that answers before it has read everything: the client still sends.
    let leaves = matches!(kind, CallKind::ClientStreaming | CallKind::BothWays) && random.u8(0..4) == 0;
    let reads = if leaves { random.usize(0..=requests) } else { requests };
    let mut steps = [vec![Step::Read; reads], vec![Step::Answer; answers]].concat();
    if kind == CallKind::BothWays {
        random.shuffle(&mut steps);
    }
    steps
}

fn text(random: &mut Rng) -> String {
    let characters = ['a', 'Z', ' ', '%', '\t', '\n', '"', 'é', '☺', '😈'];
    (0..random.usize(0..40)).map(|_| *random.choice(&characters).expect("there are some")).collect()
}

fn metadata(random: &mut Rng) -> BTreeMap<String, Vec<u8>> {
    let mut entry = |index| {
        let size = random.usize(1..200);
        if random.bool() {
            (format!("x-{index}-bin"), (0..size).map(|_| random.u8(..)).collect())
        } else {
            (format!("x-{index}"), (0..size).map(|_| random.u8(b'!'..=b'~')).collect())
        }
    };
    let entries: Vec<_> = (0..3).map(&mut entry).collect();
    entries.into_iter().take(random.usize(0..=3)).collect()
}
