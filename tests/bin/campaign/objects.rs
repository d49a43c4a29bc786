//! Object files judged: every program of theirs, by the verifier and by the running kernel.

use std::time::{Duration, Instant};

use rtbpf_tests::objects::{Judge, Judged, files};

use crate::Request;

/// Prints each difference, then the counts.
pub fn run(request: &Request) {
    let judge = match Judge::new() {
        Ok(judge) => judge,
        Err(reason) => {
            println!("skipped: {reason}");
            return;
        }
    };
    let files = match files(&request.folder) {
        Ok(files) => files,
        Err(error) => {
            println!("{}: {error}", request.folder.display());
            return;
        }
    };
    let begun = Instant::now();
    let (mut objects, mut accepted, mut rejected, mut unjudged) = (0, 0, 0, 0);
    let (mut false_rejects, mut false_accepts, mut other_errno) = (0, 0, 0);
    let (mut ours, mut theirs) = (Duration::ZERO, Duration::ZERO);
    let (mut insns, mut equal) = ((0, 0), 0);
    let mut slowest = (Duration::ZERO, String::new());
    for path in &files {
        if begun.elapsed() > request.limit {
            println!("stopped after {:.0} s", begun.elapsed().as_secs_f64());
            break;
        }
        objects += 1;
        for (program, judged) in judge.object(path) {
            let name = format!("{} {program}", path.display());
            let (us, linux) = match judged {
                Judged::Not(why) => {
                    unjudged += 1;
                    println!("not judged    {name}: {why}");
                    continue;
                }
                Judged::Both { us, linux } => (us, linux),
            };
            match (us.errno, linux.errno) {
                (0, 0) => {
                    accepted += 1;
                    ours += us.time;
                    theirs += linux.time;
                    insns.0 += us.processed;
                    insns.1 += linux.processed;
                    equal += u64::from(us.processed == linux.processed);
                    if us.processed.abs_diff(linux.processed) * 10 > linux.processed {
                        println!(
                            "other effort  {name}: {} instructions here, {} in Linux",
                            us.processed, linux.processed
                        );
                    }
                    slowest = slowest.max((us.time, name));
                }
                (0, errno) => {
                    false_accepts += 1;
                    println!("false accept  {name}: Linux {errno}: {}", linux.words);
                }
                (errno, 0) => {
                    false_rejects += 1;
                    println!("false reject  {name}: {errno}: {}", us.words);
                }
                (a, b) if a != b => {
                    other_errno += 1;
                    println!("other errno   {name}: {a}: {}; Linux {b}: {}", us.words, linux.words);
                }
                _ => rejected += 1,
            }
        }
    }
    println!(
        "{objects} objects: {accepted} programs accepted by both, {rejected} rejected by both, {other_errno} with another errno, \
         {false_rejects} false rejects, {false_accepts} false accepts, {unjudged} not judged"
    );
    println!("instructions processed: {} here, {} in Linux, as many for {equal} of {accepted}", insns.0, insns.1);
    println!(
        "verification of the accepted: {:.1} ms here, {:.1} ms in Linux; slowest here {:.1} ms, {}",
        ours.as_secs_f64() * 1e3,
        theirs.as_secs_f64() * 1e3,
        slowest.0.as_secs_f64() * 1e3,
        slowest.1
    );
}
