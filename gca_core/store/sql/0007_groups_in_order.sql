-- pages of groups in their order, without sorting all of them
drop index cell_groups_perturbation;
create index cell_groups_order on cell_groups (perturbation, cell_type_id, group_id);
analyze cell_groups;
