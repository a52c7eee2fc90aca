//! The writer: puts at a steady rate, many of them on their way at once.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use etcd_client::Client;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};

use super::{KEYS, key, sampled, value};
use crate::clock::unix_us;

/// How many puts begin together, and how many may be on their way.
const TOGETHER: usize = 10;
const ON_THEIR_WAY: u32 = 1_000;

#[derive(Parser)]
struct Options {
    #[arg(long)]
    etcd: String,
    #[arg(long)]
    puts: usize,
    /// In a second.
    #[arg(long)]
    rate: u32,
}

/// Says `written PUTS_PER_SECOND SUM`: the sum is that of the sampled keys' last times.
#[tokio::main]
pub(crate) async fn run(args: Vec<String>) -> Result<(), Box<dyn Error>> {
    let options = Options::parse_from(args);
    let client = Client::connect([&options.etcd], None).await?;
    let room = Arc::new(Semaphore::new(ON_THEIR_WAY as usize));
    let mut last = [0; KEYS];
    let began = Instant::now();
    let mut ticks = interval(Duration::from_secs(TOGETHER as u64) / options.rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    for put in 0..options.puts {
        if put.is_multiple_of(TOGETHER) {
            ticks.tick().await;
        }
        let permit = room.clone().acquire_owned().await?;
        let (number, mut kv) = (put % KEYS, client.kv_client());
        last[number] = unix_us();
        let value = value(number, last[number]);
        tokio::spawn(async move {
            kv.put(key(number), value, None).await.expect("a put");
            drop(permit);
        });
    }
    let _all = room.acquire_many(ON_THEIR_WAY).await?;
    let rate = options.puts as f64 / began.elapsed().as_secs_f64();
    println!("written {rate} {}", sampled().map(|number| last[number]).sum::<u64>());
    Ok(())
}
