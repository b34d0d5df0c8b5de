-- a row that is never committed is the lock of who writes that dataset; who may only read can't take it
create table dataset_locks (dataset text primary key);
