//! Finds the commands and programs in README.md.

/// The page.
pub(crate) const README: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md"));

/// A fenced code block.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) language: String,
    pub(crate) text: String,
}

/// Splits a page into its fenced blocks and the prose around them.
pub(crate) fn parts(page: &str) -> (Vec<Block>, String) {
    let (mut blocks, mut prose) = (Vec::new(), String::new());
    let mut open: Option<Block> = None;
    for line in page.lines() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(language), None) => {
                open = Some(Block { language: language.to_owned(), text: String::new() });
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text.push_str(line);
                block.text.push('\n');
                open = Some(block);
            }
            (None, None) => {
                prose.push_str(line);
                prose.push('\n');
            }
        }
    }
    assert_eq!(open, None, "a block is not closed");
    (blocks, prose)
}

/// The code spans in the prose.
pub(crate) fn spans(prose: &str) -> Vec<&str> {
    prose.split('`').skip(1).step_by(2).collect()
}

/// The commands of a shell block: one per line, joined at backslashes, without comments, and with
/// single spaces, so that they can be looked up.
fn of_block(text: &str) -> Vec<String> {
    let whole = text.replace("\\\n", " ");
    let bare = |line: &str| {
        let command = line.split_once("  #").map_or(line, |(command, _)| command);
        command.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    whole.lines().map(bare).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
}

/// Whether a code span is a command: the name of a known program, followed by arguments.
fn is_command(span: &str) -> bool {
    const PROGRAMS: [&str; 8] =
        ["cargo", "stackctl", "curl", "npm", "claude", "git", "docker", "sudo"];
    let is_setting = |word: &str| word.contains('=') && word.starts_with(char::is_uppercase);
    let mut words = span.split_whitespace().skip_while(|word| is_setting(word));
    words.next().is_some_and(|word| PROGRAMS.contains(&word)) && words.next().is_some()
}

/// Every command of a page, without duplicates: first those in blocks, then those in the prose.
pub(crate) fn commands(page: &str) -> Vec<String> {
    let (blocks, prose) = parts(page);
    let shell = blocks.iter().filter(|block| block.language == "sh");
    let mut found: Vec<String> = shell.flat_map(|block| of_block(&block.text)).collect();
    found.extend(spans(&prose).into_iter().filter(|span| is_command(span)).map(str::to_owned));
    let mut once: Vec<String> = Vec::new();
    for command in found {
        if !once.contains(&command) {
            once.push(command);
        }
    }
    once
}

#[test]
fn commands_are_found_wherever_they_are() {
    let page = "Do `A=b cargo stack up`, not `cargo`.\n```sh\n# first\na b   # c\nd \\\n  -e\n```\n\
                ```js\nlet x;\n```\n`stackctl up`, `cargo stack up`\n```sh\na  b\n```\n";
    let expected = ["a b", "d -e", "A=b cargo stack up", "stackctl up", "cargo stack up"];
    assert_eq!(commands(page), expected);
    let (blocks, _) = parts(page);
    assert_eq!(blocks[1], Block { language: "js".into(), text: "let x;\n".into() });
}

/// Nothing here would run a block in another language.
#[test]
fn every_block_is_in_a_language_that_is_tested() {
    let (blocks, _) = parts(README);
    let mut plain = 0;
    for block in &blocks {
        match &*block.language {
            "sh" | "js" | "python" => {}
            "text" => assert!(block.text.contains("1. A sample repository"), "{}", block.text),
            "" => {
                // The diagram in "How it works".
                assert!(block.text.contains("──▶"), "{}", block.text);
                plain += 1;
            }
            other => panic!("no test runs a block in {other}: {}", block.text),
        }
    }
    assert_eq!(plain, 1);
}
