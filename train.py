"""Train and evaluate one embedding, or a sweep of them: `python train.py --help`."""

from tcm_bench.run import main

if __name__ == "__main__":
    main()
