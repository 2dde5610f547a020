//! What a hostile agent can do to the stack, to other jobs and to the user: nothing that it tries here. The same script
//! succeeds in a control run without confinement, so that no attack fails for another reason.

mod attacks;
mod old_kernel;
mod own_user;
mod scene;
mod second_line;
mod work;
