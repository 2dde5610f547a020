use crate::{Bench, Result, Row};

pub(crate) async fn measure(_: &Bench) -> Result<Vec<Row>> {
    Ok(Vec::new())
}
