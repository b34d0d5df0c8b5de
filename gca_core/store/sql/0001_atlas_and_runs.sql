create table datasets (
    dataset text primary key,
    store_uri text not null,
    content_hash text not null,
    n_cells bigint not null,
    n_groups integer not null,
    n_genes integer not null,
    embedding_model text not null,
    report jsonb not null,
    ingested_at timestamptz not null default now()
);

create table perturbations (
    name text primary key,
    embedding vector(1536) not null,
    embedding_model text not null
);

create table cell_types (
    cell_type_id text primary key,
    label text not null,
    embedding vector(1536) not null,
    embedding_model text not null
);

create table synonyms (
    kind text not null check (kind in ('perturbation', 'cell_type')),
    synonym text not null,
    target text not null,
    primary key (kind, synonym, target)
);

create table cell_groups (
    group_id text primary key,
    dataset text not null references datasets on delete cascade,
    perturbation text not null references perturbations,
    is_control boolean not null,
    cell_type_id text not null references cell_types,
    donor text,
    n_cells integer not null check (n_cells > 0),
    control_group_id text references cell_groups deferrable initially deferred,
    control_match text check (control_match in ('type_and_donor', 'type')),
    row_start bigint not null,
    row_stop bigint not null,
    check (row_stop - row_start = n_cells),
    check ((control_group_id is null) = (control_match is null))
);

create index cell_groups_dataset on cell_groups (dataset);
create index cell_groups_perturbation on cell_groups (perturbation);
create index cell_groups_cell_type on cell_groups (cell_type_id);

create table cells (
    dataset text not null references datasets on delete cascade,
    store_row bigint not null,
    cell_name text not null,
    group_id text not null references cell_groups on delete cascade,
    n_counts double precision not null,
    n_genes integer not null,
    primary key (dataset, store_row)
);

create index cells_group on cells (group_id);

create table runs (
    run_id text primary key,
    question text not null,
    status text not null,
    phase text not null,
    best_score double precision,
    best_iteration integer,
    termination_reason text,
    state_uri text,
    results_uri text not null,
    config jsonb not null default '{}',
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

create table run_iterations (
    run_id text not null references runs on delete cascade,
    iteration integer not null check (iteration >= 0),
    score double precision,
    state_uri text,
    state_sha256 text,
    record jsonb not null default '{}',
    updated_at timestamptz not null default now(),
    primary key (run_id, iteration)
);
