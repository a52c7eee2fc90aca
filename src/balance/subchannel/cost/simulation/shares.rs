//! The shares that the simulated fleets must come to. PURE.

use crate::balance::subchannel::cost::simulation::{Does, POLICIES, Policy, SECOND, Server, World, us};

fn assert_within(what: &str, share: f64, least: f64, most: f64) {
    assert!(
        (least..=most).contains(&share),
        "{what}: {:.2} % is not within {:.1} and {:.1} %",
        share * 1e2,
        least * 1e2,
        most * 1e2
    );
}

/// F35: callers give up on a server that never answers.
#[test]
fn a_server_that_never_answers_gets_next_to_nothing_and_comes_back() {
    for policy in POLICIES {
        for (workers, takes) in
            [(1, 200), (1, 5_000), (1, 50_000), (8, 200), (8, 50_000), (64, 200), (64, 5_000), (64, 50_000)]
        {
            let well = Does::Ok(us(takes));
            let mut world = World::new(policy, workers, &[(1, Does::Hangs), (1, well)]);
            world.patience = Some(us(20_000).max(us(2 * takes)));
            world.calls(1_000);
            let counted = &world.picked[20 + 2 * workers..1_000];
            let share = counted.iter().filter(|(_, server)| *server == 0).count() as f64 / counted.len() as f64;
            let what = format!("{policy:?}, {workers} workers, {takes} us");
            assert_within(&what, share, 0.0, if takes == 200 { 0.01 } else { 0.1 });
            let again = world.now;
            world.servers[0].does = well;
            world.until(again + if takes == 200 { SECOND } else { 3 * SECOND });
            let then = world.now;
            world.until(then + us(takes) * 400 / workers as u32);
            assert_within(&format!("{what}, well again"), world.share(0, then).0, 0.4, 0.6);
        }
    }
}

/// F35: the same where it was well before, which callers with much patience tell of late.
#[test]
fn a_server_that_answers_no_more_gets_next_to_nothing() {
    for policy in POLICIES {
        for workers in [1, 8, 64] {
            let well = Does::Ok(us(1_000));
            let mut world = World::new(policy, workers, &[(1, well), (1, well)]);
            world.patience = Some(us(20_000));
            world.until(SECOND);
            world.servers[0].does = Does::Hangs;
            let then = world.now + us(100_000);
            world.until(then + SECOND / 2);
            assert_within(&format!("{policy:?}, {workers} workers"), world.share(0, then).0, 0.0, 0.01);
        }
    }
}

/// F36, F62: one of three fails at once, the others take their time.
#[test]
fn a_server_that_fails_at_once_gets_next_to_nothing_and_comes_back() {
    for policy in POLICIES {
        for (workers, takes) in [(8, 200), (8, 20_000), (32, 20_000), (32, 50_000), (512, 20_000), (512, 50_000)] {
            let (well, fails) = (Does::Ok(us(takes)), Does::Fails(100, us(takes.min(200)), us(takes)));
            for before in [fails, well] {
                let mut world = World::new(policy, workers, &[(1, before), (1, well), (1, well)]);
                world.until(3 * SECOND);
                world.servers[0].does = fails;
                let then = world.now + SECOND;
                world.until(then + 2 * SECOND);
                let what = format!("{policy:?}, {workers} workers, {takes} us");
                assert_within(&what, world.share(0, then).0, 0.0, 0.05);
                let again = world.now;
                world.servers[0].does = well;
                world.until(again + 3 * SECOND);
                let then = world.now;
                world.until(then + SECOND);
                assert_within(&format!("{what}, well again"), world.share(0, then).0, 0.25, 0.42);
            }
        }
    }
}

/// F36: who does as its peers do gets what they get.
#[test]
fn equal_failures_cost_nobody_anything() {
    for policy in POLICIES {
        for workers in [1, 8, 32, 512] {
            let alike = Does::Fails(30, us(200), us(20_000));
            let mut world = World::new(policy, workers, &[(1, alike); 3]);
            world.until(2 * SECOND);
            world.calls(12_000 + world.picked.len());
            for server in 0..3 {
                let (share, _) = world.share(server, 2 * SECOND);
                assert_within(&format!("{policy:?}, {workers} workers, server {server}"), share, 0.28, 0.39);
            }
            let all_fail = Does::Fails(100, us(10_000), us(20_000));
            world.servers.iter_mut().for_each(|server| server.does = all_fail);
            let then = world.now + SECOND;
            world.until(then + 4 * SECOND);
            for server in 0..3 {
                let (share, _) = world.share(server, then);
                assert_within(&format!("{policy:?}, {workers} workers, all fail, server {server}"), share, 0.28, 0.39);
            }
        }
    }
}

/// F36: failing half of the calls at once saves a server no time.
#[test]
fn half_of_its_calls_failed_at_once_draw_no_more_calls() {
    for policy in POLICIES {
        for workers in [8, 32, 512] {
            let (half, well) = (Does::Fails(50, us(200), us(20_000)), Does::Ok(us(20_000)));
            let mut world = World::new(policy, workers, &[(1, half), (1, well), (1, well)]);
            world.until(SECOND);
            world.calls(12_000 + world.picked.len());
            assert_within(&format!("{policy:?}, {workers} workers"), world.share(0, SECOND).0, 0.0, 0.35);
            let mostly = Does::Fails(90, us(200), us(20_000));
            world.servers[0].does = mostly;
            let then = world.now + 2 * SECOND;
            world.until(then + 2 * SECOND);
            assert_within(&format!("{policy:?}, {workers} workers, 90 of 100"), world.share(0, then).0, 0.0, 0.1);
        }
    }
}

/// F37: weights hold whether servers are idle or busy.
#[test]
fn weights_are_kept_with_few_workers_and_with_many() {
    for policy in POLICIES {
        for (workers, takes) in [1, 2, 4, 8, 32].into_iter().flat_map(|workers| [(workers, 200), (workers, 20_000)]) {
            let well = Does::Ok(us(takes));
            let mut world = World::new(policy, workers, &[(10, well), (1, well)]);
            world.calls(20_000);
            assert_within(&format!("{policy:?}, {workers} workers, 10 to 1"), world.share(1, us(0)).0, 0.05, 0.13);
            let mut world = World::new(policy, workers, &[(10, well), (1, well)]);
            world.stalls = Some((us(30_000), SECOND));
            world.calls(20_000 + 200 * workers);
            let what = format!("{policy:?}, {workers} workers of {takes} us, one stands still now and then");
            assert_within(&what, world.share(1, us(0)).0, 0.05, 0.14);
            for cold in [0, 800] {
                let mut world = World::new(policy, workers, &[(1, well), (1, well), (100, well)]);
                world.cold = us(cold);
                world.calls(40_000);
                for server in 0..2 {
                    let what = format!("{policy:?}, {workers} workers of {takes} us, 1 to 100, cold {cold} us more");
                    assert_within(&what, world.share(server, us(0)).0, 0.004, 0.02);
                }
            }
        }
    }
}

/// The slow server, which no call fails at.
#[test]
fn a_slow_server_gets_as_much_as_it_can_do() {
    for (policy, most) in [(Policy::LeastRequest, 0.05), (Policy::PeakEwma, 0.005)] {
        for workers in [8, 64] {
            let (fast, slow) = (Does::Ok(us(500)), Does::Ok(us(20_000)));
            let mut world = World::new(policy, workers, &[(1, slow), (1, fast), (1, fast), (1, fast)]);
            world.until(3 * SECOND);
            assert_within(&format!("{policy:?}, {workers} workers"), world.share(0, SECOND).0, 0.0, most);
            world.servers[0].does = fast;
            let then = world.now + 10 * SECOND;
            world.until(then + SECOND);
            assert_within(&format!("{policy:?}, {workers} workers, fast again"), world.share(0, then).0, 0.2, 0.3);
        }
    }
}

/// A server without latency history costs what its peers cost: it gets its share, neither more nor less.
#[test]
fn a_new_server_gets_its_share_at_once() {
    for policy in POLICIES {
        for workers in [4, 64] {
            let well = Does::Ok(us(5_000));
            let mut world = World::new(policy, workers, &[(1, well); 3]);
            world.until(SECOND);
            world.servers.push(Server::new(1, well));
            let then = world.now;
            world.until(then + SECOND);
            assert_within(&format!("{policy:?}, {workers} workers"), world.share(3, then).0, 0.2, 0.3);
        }
    }
}
