//! The cases, in the order in which they run.

mod changes;
mod deployment;
mod faults;
mod isolation;
mod others;
mod serving;

pub(crate) use changes::{
    a_credential_is_rotated, operators_commands, scaled_up_and_down_under_load, taken_away,
    the_real_cli, updated_under_load,
};
pub(crate) use deployment::{
    deploying_again_changes_nothing, images_are_small_and_labelled, secrets_are_where_they_belong,
};
pub(crate) use faults::{
    containers_and_the_gateway_killed_at_random, health_checks_stay_green_through_a_busy_minute,
};
pub(crate) use isolation::{
    an_agent_does_not_reach_the_stack, what_a_killed_container_has_left_is_used_again,
};
pub(crate) use others::{one_engine_without_swarm, the_agent_service_alone};
pub(crate) use serving::{sixty_unequal_ones, ten_at_once};
