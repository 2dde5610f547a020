//! The git host's side of a pull: the mirror of a repository, and the way to its host.

mod access;
mod configuration;
mod damage;
mod diagnosis;
mod layout;
mod lfs;
mod mirror;
mod refs;
mod transport;
mod wanted;

pub(crate) use self::{
    access::{Access, is_same_origin, without_port},
    configuration::{git_format, origin},
    diagnosis::{http_status, stalled, unusable},
    lfs::{
        CONFIGURATION as LFS_CONFIGURATION, Lfs, obstacle as lfs_obstacle, store as store_in_lfs,
        upload as upload_to_lfs,
    },
    mirror::{Freshness, Mirror, location as mirror_location},
    refs::{
        LARGEST_REFS, ObjectFormat, ObjectId, Refs, pack as pack_refs, parse as parse_refs,
        read as read_refs,
    },
    transport::Transport,
    wanted::{Extent, Wanted},
};
