//! The git host's side of a pull: the mirror of a repository, and the way to its host.

mod access;
mod damage;
mod diagnosis;
mod foreign;
mod lfs;
mod mirror;
mod refs;
mod transport;
mod wanted;

pub(crate) use self::{
    access::{Logins, is_same_origin},
    diagnosis::{http_status, stalled, unusable},
    foreign::{git_format, origin},
    lfs::{
        CONFIGURATION as LFS_CONFIGURATION, Lfs, obstacle as lfs_obstacle, store as store_in_lfs,
    },
    mirror::{Freshness, Mirror, location as mirror_location},
    refs::{LARGEST_REFS, ObjectFormat, ObjectId, Refs, parse as parse_refs, read as read_refs},
    transport::Transport,
    wanted::{Extent, Wanted},
};
