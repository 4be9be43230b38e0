use coi::monitor::sensor::Sensor;
fn main() {
    let id: u64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let level: u32 = std::env::args().nth(2).unwrap().parse().unwrap();
    let ws: u64 = std::env::args().nth(3).unwrap().parse().unwrap();
    let dev: u32 = std::env::args().nth(4).unwrap().parse().unwrap();
    let mut s = Sensor::load().unwrap_or_else(|e| { eprintln!("{e}\n{e:?}"); std::process::exit(1) });
    println!("{:?} {:?}", s.programs(), s.holes());
    s.expect("/lxc.payload.probe", coi_common::Scope { level: 1, ..Default::default() }).unwrap();
    if id != 0 { s.watch(id, coi_common::Scope { started: 1, level, workspace_inode: ws, workspace_device: dev, ..Default::default() }).unwrap(); }
    let t = std::time::Instant::now();
    let mut v = vec![];
    while t.elapsed().as_secs() < 8 { s.drain(&mut v); for e in v.drain(..) { println!("{e:?}"); } std::thread::sleep(std::time::Duration::from_millis(20)); s.losses(&mut v); }
}
