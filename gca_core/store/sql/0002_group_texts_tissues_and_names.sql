-- vectors stay inline: a search reads all of them, and fetching each from a side table costs more than its distance
alter table perturbations alter column embedding set storage plain;
alter table perturbations alter column name set storage main;
alter table cell_types alter column embedding set storage plain;
alter table cell_types alter column label set storage main;

-- what a group is, apart from its dataset and donor: groups of many donors share one text and one vector
create table group_texts (
    perturbation text not null references perturbations on delete cascade,
    cell_type_id text not null references cell_types on delete cascade,
    text text not null,
    embedding vector(1536) not null,
    embedding_model text not null,
    primary key (perturbation, cell_type_id)
);

alter table group_texts alter column embedding set storage plain;
alter table group_texts alter column perturbation set storage main;
alter table group_texts alter column text set storage main;
create index group_texts_cell_type on group_texts (cell_type_id);

create table tissues (
    tissue_id text primary key,
    label text not null
);

alter table cell_groups add column tissue_id text references tissues;
create index cell_groups_tissue on cell_groups (tissue_id);

-- which model the vectors are of, and from which similarity on two of its texts are more alike than by chance
create table embedding_models (
    model text primary key,
    similarity_threshold double precision,
    n_texts integer not null default 0,
    calibrated_at timestamptz not null default now()
);

insert into embedding_models (model) select distinct embedding_model from datasets;

alter table perturbations add column catalogue_name text;

-- every name under which something is known, its own among them
alter table synonyms drop constraint synonyms_kind_check;
alter table synonyms add constraint synonyms_kind_check check (kind in ('perturbation', 'cell_type', 'tissue'));
insert into synonyms (kind, synonym, target) select 'perturbation', name, name from perturbations on conflict do nothing;
insert into synonyms (kind, synonym, target) select 'cell_type', label, cell_type_id from cell_types on conflict do nothing;
create index synonyms_target on synonyms (kind, target);

-- one check per cell is most of the time that a million cells take; ingest and drop write these rows in the
-- transaction that writes their dataset, and a group's cells are those of its range of rows
alter table cells drop constraint cells_dataset_fkey;
alter table cells drop constraint cells_group_id_fkey;
drop index cells_group;
alter table cells alter column n_counts type real;
alter table cells add column mito_fraction real;

drop index cell_groups_perturbation;
create index cell_groups_perturbation on cell_groups (perturbation, cell_type_id);
