"""The command `tcm-bench`: one module per group of sub-commands, put together in `app`."""
