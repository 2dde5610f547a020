//! The git host's side of a pull: the mirror of a repository, and the way to its host.

mod access;
mod diagnosis;
mod lfs;
mod mirror;
mod refs;
mod transport;

pub(crate) use self::{
    access::{Logins, is_same_origin},
    diagnosis::{stalled, unusable},
    lfs::{CONFIGURATION as LFS_CONFIGURATION, Lfs, obstacle as lfs_obstacle},
    mirror::{Extent, Freshness, Mirror, Wanted},
    refs::{ObjectFormat, ObjectId, Refs, parse as parse_refs},
    transport::Transport,
};
