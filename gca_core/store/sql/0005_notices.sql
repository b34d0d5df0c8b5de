-- what was told of a run, so that it is told once; a hash, since addresses are not kept here
create table run_notices (
    run_id text not null,
    notice text not null,
    sent_at timestamptz not null default now(),
    primary key (run_id, notice)
);
