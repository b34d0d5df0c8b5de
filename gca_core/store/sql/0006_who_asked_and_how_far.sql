-- who asked, how far it is, what it cost and where its results lie
alter table runs
    add column user_name text,
    add column iteration integer,
    add column seed bigint,
    add column error text,
    add column outputs jsonb not null default '{}',
    add column cost jsonb not null default '{}',
    add column dag_id text,
    add column dag_run_id text;
alter table run_iterations add column expected double precision;

update runs set status = 'completed' where status = 'succeeded';
update runs set phase = case phase
    when 'understand' then 'query_analysis'
    when 'propose' then 'prompt_generation'
    when 'infer' then 'inference'
    when 'evaluate' then 'evaluation'
    when 'record' then 'evaluation'
    else 'output_generation'
end;
update runs set seed = (config ->> 'seed')::bigint, iteration = best_iteration;
alter table runs
    add constraint runs_status check (status in ('pending', 'running', 'completed', 'failed', 'cancelled')),
    add constraint runs_phase check (
        phase in ('query_analysis', 'prompt_generation', 'inference', 'evaluation', 'output_generation')
    );

create index runs_created on runs (created_at desc, run_id);
create index runs_user on runs (user_name, created_at desc);
create index runs_dag on runs (dag_id, dag_run_id);
