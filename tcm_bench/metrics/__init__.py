"""torchmetrics shells: they gather rows across batches and ranks, then call `tcm_bench.functional`."""
