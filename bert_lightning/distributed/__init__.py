"""A model shared over processes: FSDP2 and tensor parallelism."""
