//! Attributes that change what is written.

use crate::kind::Kind;

/// A file under `attributes`, which changes; then the attributes change with it.
async fn attributes(row: &'static str, attributes: &str, later: &str, content: &[u8]) {
    let kind = Kind::new(row);
    kind.up.write(".gitattributes", attributes);
    kind.up.write("d/.gitattributes", "inner.txt -text -eol -ident\n");
    for name in ["a.txt", "b.txt", "d/inner.txt", "same.txt"] {
        kind.up.write(name, content);
    }
    kind.up.commit();
    kind.same(|up| {
        up.write(".gitattributes", later);
        up.write("a.txt", [content, content].concat());
        up.write("d/inner.txt", [content, content].concat());
        up.commit();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn line_ends() {
    attributes("eol=crlf", "*.txt text eol=crlf\n", "*.txt text eol=crlf\n", b"one\ntwo\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_auto() {
    attributes("text=auto", "* text=auto\n", "* text=auto eol=crlf\n", b"one\ntwo\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn line_ends_that_change_with_their_files() {
    attributes("eol changes with its files", "*.txt eol=crlf\n", "*.txt eol=lf\n", b"x\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_that_come_with_their_files() {
    attributes("attributes come with their files", "", "*.txt text eol=crlf\n", b"x\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ident() {
    attributes("ident", "*.txt ident\n", "*.txt ident\n", b"$Id$\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn encodings() {
    let utf16 = "*.txt text working-tree-encoding=UTF-16LE eol=crlf\n";
    let kind = Kind::new("working-tree-encoding");
    let utf16_bytes =
        |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    kind.up.write(".gitattributes", utf16);
    kind.up.write("a.txt", utf16_bytes("ünï\r\n"));
    kind.up.commit();
    kind.same(|up| {
        up.write("a.txt", utf16_bytes("zwei\r\nünï\r\n"));
        up.commit();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_that_are_not_there() {
    attributes(
        "filter=lfs without git-lfs",
        "*.txt filter=lfs -text\n",
        "*.txt filter=x\n",
        b"x\n",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_committed_against_their_attributes() {
    let kind = Kind::new("CRLF committed under text");
    kind.up.write("a.txt", b"one\r\ntwo\r\n");
    kind.up.commit();
    kind.up.write(".gitattributes", "*.txt text\n");
    // Not renormalized: `git status` calls the file changed at once, in any clone.
    kind.up.git(&["add", ".gitattributes"]);
    kind.up.git(&["commit", "--quiet", "--message", "attributes"]);
    kind.same(|up| {
        up.write("b", "x\n");
        up.git(&["add", "b"]);
        up.git(&["commit", "--quiet", "--message", "b"]);
    })
    .await;
}
