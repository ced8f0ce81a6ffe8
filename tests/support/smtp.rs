//! A mail server that keeps what it is sent.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// A mail as it came.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// What the envelope says.
    pub from: String,
    /// To whom, as the envelope says.
    pub to: Vec<String>,
    /// Header and text, lines ended by `\n`.
    pub text: String,
}

impl Mail {
    /// A field of the header.
    pub fn field(&self, name: &str) -> Option<&str> {
        let (header, _) = self.text.split_once("\n\n")?;
        header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The text below the header, out of quoted-printable.
    pub fn body(&self) -> String {
        let (_, body) = self.text.split_once("\n\n").expect("a header");
        let mut parts = body.split('=');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            match part.strip_prefix('\n') {
                Some(rest) => bytes.extend(rest.as_bytes()),
                None => {
                    bytes.push(u8::from_str_radix(&part[..2], 16).expect("two digits"));
                    bytes.extend(&part.as_bytes()[2..]);
                }
            }
        }
        String::from_utf8(bytes).expect("UTF-8")
    }
}

/// What the server took, and how many mails were under way at once.
#[derive(Debug, Default)]
pub struct Received {
    /// In the order in which they came.
    pub mails: Vec<Mail>,
    /// How many texts are yet to be refused for now.
    to_refuse: usize,
    under_way: usize,
    /// The most that were under way at once.
    pub under_way_max: usize,
}

/// Starts it on a free port, refusing the first texts for now.
pub async fn mail_server(to_refuse: usize) -> (u16, Arc<Mutex<Received>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let received = Arc::new(Mutex::new(Received { to_refuse, ..Received::default() }));
    let into = received.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let into = into.clone();
            // One that breaks off is as good as one that says good-bye.
            tokio::spawn(async move { serve(stream, &into).await });
        }
    });
    (port, received)
}

async fn serve(mut stream: TcpStream, into: &Mutex<Received>) -> std::io::Result<()> {
    let (reading, mut writing) = stream.split();
    let mut lines = BufReader::new(reading).lines();
    writing.write_all(b"220 ready\r\n").await?;
    let mut mail = Mail::default();
    while let Some(line) = lines.next_line().await? {
        let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let answer = match line.get(..4).unwrap_or_default().to_ascii_uppercase().as_str() {
            "MAIL" => {
                mail = Mail { from: address(), ..Mail::default() };
                let mut received = into.lock().unwrap();
                received.under_way += 1;
                received.under_way_max = received.under_way_max.max(received.under_way);
                "250 yes"
            }
            "RCPT" => {
                mail.to.push(address());
                "250 yes"
            }
            "DATA" => {
                writing.write_all(b"354 go on\r\n").await?;
                while let Some(line) = lines.next_line().await?.filter(|line| line != ".") {
                    mail.text.push_str(line.strip_prefix('.').unwrap_or(&line));
                    mail.text.push('\n');
                }
                let mut received = into.lock().unwrap();
                received.under_way -= 1;
                if received.to_refuse > 0 {
                    received.to_refuse -= 1;
                    "451 not now"
                } else {
                    received.mails.push(std::mem::take(&mut mail));
                    "250 taken"
                }
            }
            "QUIT" => {
                writing.write_all(b"221 good-bye\r\n").await?;
                return Ok(());
            }
            _ => "250 yes",
        };
        writing.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}
