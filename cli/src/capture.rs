//! Packet captures in and out: pcap and pcapng are read, pcap is written.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError};

/// Why a capture could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened or created.
    #[error("{path}: {source}", path = path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Neither pcap nor pcapng.
    #[error("{path}: not a pcap or pcapng file; capture one with `tcpdump -w FILE`", path = path.display())]
    NotACapture {
        /// Which.
        path: PathBuf,
    },
    /// Good up to here, damaged from here on.
    #[error("{path}: damaged after packet {packets}: {what}; the packets before it were used", path = path.display())]
    Damaged {
        /// Which.
        path: PathBuf,
        /// Whole packets before the damage.
        packets: u64,
        /// What the reader said.
        what: String,
    },
    /// A rewritten packet could not be stored.
    #[error("{path}: {what}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// What the writer said.
        what: String,
    },
}

/// One captured packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Time since the epoch.
    pub time: Duration,
    /// Captured bytes.
    pub bytes: Vec<u8>,
}

/// A capture being read, packet by packet.
pub struct Capture {
    path: PathBuf,
    reader: Reader,
    packets: u64,
    ended: bool,
    /// Bytes of the file, for progress.
    pub size: u64,
    /// Link type of the first interface.
    pub link: DataLink,
}

enum Reader {
    Pcap(PcapReader<BufReader<File>>),
    PcapNg(Box<PcapNgReader<BufReader<File>>>),
}

impl Capture {
    /// Opens a pcap or pcapng file, told apart by its first four bytes.
    pub fn open(path: &Path) -> Result<Capture, CaptureError> {
        let open = |source| CaptureError::Open { path: path.to_path_buf(), source };
        let not_one = || CaptureError::NotACapture { path: path.to_path_buf() };
        let mut file = File::open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        if meta.is_dir() {
            return Err(open(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        let mut magic = [0; 4];
        file.read_exact(&mut magic).map_err(|_| not_one())?;
        file.seek(SeekFrom::Start(0)).map_err(open)?;
        let buffered = BufReader::new(file);
        let (reader, link) = if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
            let reader = PcapNgReader::new(buffered).map_err(|_| not_one())?;
            (Reader::PcapNg(Box::new(reader)), DataLink::ETHERNET)
        } else {
            let reader = PcapReader::new(buffered).map_err(|_| not_one())?;
            let link = reader.header().datalink;
            (Reader::Pcap(reader), link)
        };
        Ok(Capture { path: path.to_path_buf(), reader, packets: 0, ended: false, size: meta.len(), link })
    }

    fn read(&mut self) -> Option<Result<Packet, PcapError>> {
        match &mut self.reader {
            Reader::Pcap(reader) => {
                let packet = reader.next_packet()?;
                Some(packet.map(|p| Packet { time: p.timestamp, bytes: p.data.into_owned() }))
            }
            Reader::PcapNg(reader) => loop {
                match reader.next_block()? {
                    Err(error) => return Some(Err(error)),
                    Ok(Block::EnhancedPacket(p)) => {
                        return Some(Ok(Packet { time: p.timestamp, bytes: p.data.into_owned() }));
                    }
                    Ok(Block::SimplePacket(p)) => {
                        return Some(Ok(Packet { time: Duration::ZERO, bytes: p.data.into_owned() }));
                    }
                    Ok(_) => {}
                }
            },
        }
    }
}

/// Ends after the first damage.
impl Iterator for Capture {
    type Item = Result<Packet, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        match self.read() {
            None => None,
            Some(Ok(packet)) => {
                self.packets += 1;
                Some(Ok(packet))
            }
            Some(Err(error)) => {
                self.ended = true;
                let what = match error {
                    PcapError::IncompleteBuffer => "the file ends inside a packet".to_string(),
                    other => other.to_string(),
                };
                Some(Err(CaptureError::Damaged { path: self.path.clone(), packets: self.packets, what }))
            }
        }
    }
}

/// A pcap file being written.
pub struct CaptureOut {
    path: PathBuf,
    writer: PcapWriter<BufWriter<File>>,
}

impl CaptureOut {
    /// Creates or replaces the file.
    pub fn create(path: &Path, link: DataLink) -> Result<CaptureOut, CaptureError> {
        let file = File::create(path).map_err(|source| CaptureError::Open { path: path.to_path_buf(), source })?;
        let header = PcapHeader { datalink: link, ..PcapHeader::default() };
        let writer = PcapWriter::with_header(BufWriter::new(file), header)
            .map_err(|error| CaptureError::Write { path: path.to_path_buf(), what: error.to_string() })?;
        Ok(CaptureOut { path: path.to_path_buf(), writer })
    }

    /// Appends one packet.
    pub fn write(&mut self, packet: &Packet) -> Result<(), CaptureError> {
        let length = u32::try_from(packet.bytes.len()).unwrap_or(u32::MAX);
        let packet = PcapPacket::new(packet.time, length, &packet.bytes);
        match self.writer.write_packet(&packet) {
            Ok(_) => Ok(()),
            Err(error) => Err(CaptureError::Write { path: self.path.clone(), what: error.to_string() }),
        }
    }

    /// Flushes; the only way to know that everything was stored.
    pub fn finish(self) -> Result<(), CaptureError> {
        let path = self.path;
        self.writer.into_writer().flush().map_err(|error| CaptureError::Write { path, what: error.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rtbpf-capture-{}-{name}", std::process::id()))
    }

    fn written(name: &str, count: u8) -> PathBuf {
        let path = temp(name);
        let mut out = CaptureOut::create(&path, DataLink::ETHERNET).unwrap();
        for n in 0..count {
            out.write(&Packet { time: Duration::from_micros(n.into()), bytes: vec![n; 60] }).unwrap();
        }
        out.finish().unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_back() {
        let path = written("round", 3);
        let packets: Vec<Packet> = Capture::open(&path).unwrap().map(Result::unwrap).collect();
        assert_eq!(packets.len(), 3);
        assert_eq!(packets[2], Packet { time: Duration::from_micros(2), bytes: vec![2; 60] });
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_cut_file_gives_its_whole_packets_and_then_one_error() {
        let path = written("cut", 3);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 10]).unwrap();
        let items: Vec<_> = Capture::open(&path).unwrap().collect();
        assert_eq!(items.iter().filter(|item| item.is_ok()).count(), 2);
        assert!(matches!(items.last(), Some(Err(CaptureError::Damaged { packets: 2, .. }))));
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let path = temp("other");
        for bytes in [&b""[..], b"\x89PNG\r\n\x1a\n and more bytes than a header has"] {
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Capture::open(&path), Err(CaptureError::NotACapture { .. })));
        }
        std::fs::remove_file(path).unwrap();
        assert!(matches!(Capture::open(&std::env::temp_dir()), Err(CaptureError::Open { .. })));
    }
}
