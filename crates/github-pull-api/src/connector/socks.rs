//! SOCKS5 (RFC 1928) with a password (RFC 1929): as much of it as curl and our relay speak.

use std::io::{self, Read, Write};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::policy::Target;

const VERSION: u8 = 5;
const PASSWORD_VERSION: u8 = 1;
const PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
const SUCCEEDED: u8 = 0;
/// "Host unreachable": the one answer to all that does not succeed.
const UNREACHABLE: u8 = 4;

/// What was asked for.
pub(super) struct SocksRequest {
    /// The user's name, which says what git wants the connection for.
    pub(super) user: String,
    pub(super) target: Target,
}

/// Reads what a client wants, once it has given `secret` for its password.
pub(super) async fn accept<S>(stream: &mut S, secret: &str) -> io::Result<SocksRequest>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    expect(stream.read_u8().await?, VERSION)?;
    if !short(stream).await?.contains(&PASSWORD) {
        stream.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(invalid("a client without a password"));
    }
    stream.write_all(&[VERSION, PASSWORD]).await?;

    expect(stream.read_u8().await?, PASSWORD_VERSION)?;
    let user = short(stream).await?;
    let is_known = short(stream).await? == secret.as_bytes();
    stream.write_all(&[PASSWORD_VERSION, u8::from(!is_known)]).await?;
    if !is_known {
        return Err(invalid("a client with a wrong password"));
    }

    expect(stream.read_u8().await?, VERSION)?;
    expect(stream.read_u8().await?, CONNECT)?;
    expect(stream.read_u8().await?, 0)?;
    let host = match stream.read_u8().await? {
        IPV4 => std::net::Ipv4Addr::from(stream.read_u32().await?).to_string(),
        IPV6 => std::net::Ipv6Addr::from(stream.read_u128().await?).to_string(),
        NAME => text(short(stream).await?)?,
        _ => return Err(invalid("an unknown kind of address")),
    };
    let port = stream.read_u16().await?;
    let target = Target::new(&host, port).ok_or_else(|| invalid("no name of a host"))?;
    Ok(SocksRequest { user: text(user)?, target })
}

/// Answers a request.
pub(super) async fn answer<S: AsyncWrite + Unpin>(
    stream: &mut S,
    connected: bool,
) -> io::Result<()> {
    let code = if connected { SUCCEEDED } else { UNREACHABLE };
    // The address at our end of the connection is nobody's business.
    stream.write_all(&[VERSION, code, 0, IPV4, 0, 0, 0, 0, 0, 0]).await
}

/// The other side: asks for a connection to `host` and `port`.
pub(super) fn connect<S: Read + Write>(
    stream: &mut S,
    (user, secret): (&str, &str),
    host: &str,
    port: u16,
) -> io::Result<()> {
    stream.write_all(&[VERSION, 1, PASSWORD])?;
    expect_bytes(stream, [VERSION, PASSWORD])?;
    let mut login = vec![PASSWORD_VERSION];
    push_short(&mut login, user)?;
    push_short(&mut login, secret)?;
    stream.write_all(&login)?;
    expect_bytes(stream, [PASSWORD_VERSION, 0])?;
    let mut request = vec![VERSION, CONNECT, 0, NAME];
    push_short(&mut request, host)?;
    request.extend(port.to_be_bytes());
    stream.write_all(&request)?;
    let mut reply = [0; 10];
    stream.read_exact(&mut reply)?;
    let [version, code, ..] = reply;
    expect(version, VERSION)?;
    if code == SUCCEEDED { Ok(()) } else { Err(io::ErrorKind::HostUnreachable.into()) }
}

/// Bytes behind their number.
async fn short<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(stream.read_u8().await?)];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn push_short(message: &mut Vec<u8>, text: &str) -> io::Result<()> {
    message.push(u8::try_from(text.len()).map_err(|_| invalid("more than 255 bytes"))?);
    message.extend(text.bytes());
    Ok(())
}

fn expect_bytes<S: Read>(stream: &mut S, expected: [u8; 2]) -> io::Result<()> {
    let mut reply = [0; 2];
    stream.read_exact(&mut reply)?;
    if reply == expected { Ok(()) } else { Err(invalid("an unexpected answer")) }
}

fn expect(byte: u8, expected: u8) -> io::Result<()> {
    if byte == expected { Ok(()) } else { Err(invalid("not SOCKS5")) }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(|_| invalid("not UTF-8"))
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
