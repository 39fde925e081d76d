"""Train and evaluate one embedding, or a sweep of them: `python train.py --help`."""

from tcm_bench.process import RUN_INTERRUPTED, leave_on_ctrl_c

if __name__ == "__main__":
    leave_on_ctrl_c(RUN_INTERRUPTED)  # before the imports, which take a second

    from tcm_bench.runs.run import main

    main()
