//! Tables for people: columns are counted in terminal cells, and no row wraps.

use std::io::IsTerminal as _;

use anstyle::Style;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, presets};

/// Which way a column is aligned, and whether it gives way when the terminal is narrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// To the left.
    Text,
    /// To the right.
    Number,
    /// To the left, and cut to the width that the others leave.
    Elastic,
}

/// The table as lines, each in its style and without spaces at its end. The first line is the header. With a `width`,
/// in cells, elastic columns are cut to fit.
pub(crate) fn lines(
    columns: &[(&str, Column)],
    rows: impl IntoIterator<Item = (Style, Vec<String>)>,
    width: Option<u16>,
) -> Vec<String> {
    let header = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let (styles, rows): (Vec<_>, Vec<_>) =
        std::iter::once((Style::new().bold(), header)).chain(rows).unzip();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_truncation_indicator("…");
    match width {
        Some(width) => table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    for row in rows {
        let cells = row.into_iter().zip(columns).map(|(text, (_, column))| {
            let alignment = match column {
                Column::Text | Column::Elastic => CellAlignment::Left,
                Column::Number => CellAlignment::Right,
            };
            Cell::new(text).set_alignment(alignment)
        });
        let mut row = Row::from(cells.collect::<Vec<_>>());
        row.max_height(1);
        table.add_row(row);
    }
    for (at, (_, kind)) in columns.iter().enumerate() {
        let Some(column) = table.column_mut(at) else { continue };
        // Two cells between columns.
        column.set_padding((0, 2));
        if *kind != Column::Elastic && width.is_some() {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let styled = |(line, style): (String, Style)| format!("{style}{}{style:#}", line.trim_end());
    table.lines().zip(styles).map(styled).collect()
}

/// The width of the terminal at standard output, in cells, if there is one.
pub(crate) fn terminal_width() -> Option<u16> {
    let out = std::io::stdout();
    if !out.is_terminal() {
        return None;
    }
    terminal_size::terminal_size_of(out).map(|(width, _)| width.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [(&str, Column); 3] =
        [("ID", Column::Text), ("TOOK", Column::Number), ("WHAT", Column::Elastic)];

    const ROWS: [[&str; 3]; 2] =
        [["a", "1.0 s", "修复构建 🚀 now"], ["bb", "12.0 s", "ASCII only, and long"]];

    fn plain<const N: usize>(
        columns: &[(&str, Column); N],
        rows: &[[&str; N]],
        width: Option<u16>,
    ) -> Vec<String> {
        let rows = rows.iter().map(|row| (Style::new(), row.map(str::to_owned).to_vec()));
        let lines = lines(columns, rows, width);
        lines.iter().map(|line| anstream::adapter::strip_str(line).to_string()).collect()
    }

    /// The column of the text in cells, where CJK characters and emoji count as two.
    fn cell_of(line: &str, text: &str) -> usize {
        unicode_width::UnicodeWidthStr::width(line.split(text).next().unwrap())
    }

    #[test]
    fn wide_characters_do_not_break_columns() {
        let columns = [("WHAT", Column::Text), ("ID", Column::Text)];
        let rows = [["修复构建 🚀", "first"], ["ASCII", "second"], ["e\u{301}\u{301}", "third"]];
        let lines = plain(&columns, &rows, None);
        let ids: Vec<_> = lines
            .iter()
            .zip(["ID", "first", "second", "third"])
            .map(|(line, id)| cell_of(line, id))
            .collect();
        assert_eq!(ids, [13; 4], "{lines:#?}");
    }

    #[test]
    fn rows_are_cut_and_never_wrap() {
        let wide = plain(&COLUMNS, &ROWS, None);
        assert_eq!(
            wide,
            ["ID    TOOK  WHAT", "a    1.0 s  修复构建 🚀 now", "bb  12.0 s  ASCII only, and long"]
        );
        for width in [20, 21, 22, 24, 30] {
            let cut = plain(&COLUMNS, &ROWS, Some(width));
            assert_eq!(cut.len(), 3, "{cut:#?}");
            for line in &cut {
                let cells = unicode_width::UnicodeWidthStr::width(line.as_str());
                assert!(cells <= usize::from(width), "{cells} > {width}: {line}");
            }
            assert!(width > 24 || (cut[1].ends_with('…') && cut[2].ends_with('…')), "{cut:#?}");
        }
    }
}
