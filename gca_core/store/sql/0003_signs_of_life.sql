-- who works on a run, and how long it may be silent before it counts as dead
alter table runs add column owner text not null default '';
alter table runs add column started_at timestamptz not null default now();
alter table runs add column heartbeat_at timestamptz not null default now();
alter table runs add column stale_after_seconds integer not null default 86400;
update runs set started_at = created_at, heartbeat_at = updated_at;
