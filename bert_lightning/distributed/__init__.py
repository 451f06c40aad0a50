"""One model on several processes: collective operations, FSDP2 and tensor parallelism."""
