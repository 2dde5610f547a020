# Replaces everything in the demo's output that differs from run to run: ports, ids, directories,
# times, and how much of a pack git has reported when it is complete.
s#[^ ]*/stackctl-demo-[A-Za-z0-9]+#/tmp/stackctl-demo#g
s#[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}#019c0000-0000-7000-8000-000000000000#g
s#workflows at [^,]+, pulls at [^,]+, agents at .*#workflows at http://127.0.0.1:40005, pulls at http://127.0.0.1:40004, agents at http://127.0.0.1:40003#
s#--url http://127\.0\.0\.1:[0-9]+#--url http://127.0.0.1:40005#
s#after [0-9.]+ s#after 2.3 s#
s#(receiving: [^,]*), [0-9.]+ kB$#\1#
